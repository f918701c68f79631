"""Is it gone, or only unread? A linear probe on frozen features, and how soon it is relearnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.contracts import Estimate
from efface.errors import BadRequest, MeasurementFailed
from efface.metrics.estimates import Comparison, compare_rates, rate

__all__ = ["Probe", "Relearning", "compare_probes", "linear_probe", "relearning", "share_left"]

STRENGTHS = tuple(10.0**power for power in range(-6, 3))
"""Ridges tried, as multiples of the mean eigenvalue of the features' products."""


@dataclass(frozen=True)
class Probe:
    """How well a linear classifier, trained on frozen features, tells the classes of pictures."""

    accuracy: Estimate
    """On pictures that the classifier was not trained on."""
    chance: float
    """What always naming the most frequent class scores on the same pictures."""
    hits: tuple[float, ...]
    """One 1 or 0 per picture of ``accuracy``, in the pictures' order."""


@dataclass(frozen=True)
class Relearning:
    """How many steps of training bring back a share of what was lost."""

    steps: int | None
    """The first step looked at where that much is back; None: not within ``until``."""
    after: int
    """The last step looked at before it: the crossing lies between the two."""
    until: int
    target: float
    """The accuracy that counts as that much."""
    at_end: float
    """Accuracy at the last step looked at."""


def linear_probe(
    features: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    *,
    generator: torch.Generator,
    of: Sequence[int] | None = None,
    folds: int = 5,
) -> Probe:
    """Cross-validates a ridge classifier on features, one against the rest.

    Features are standardised by the training folds. The ridge is chosen in every fold by exact
    leave-one-out error of its training pictures. Solved in float64, so equal inputs give equal
    numbers.

    Args:
        features: what the head reads (`Classifier.features`), of the edited network.
        labels: what the pictures show, forgotten classes included.
        of: count the accuracy of these classes only, such as the forgotten; the classifier is
            trained on all. None: of all.
        generator: sorts pictures into parts.
        folds: parts, each with a like share of every class.

    Raises:
        BadRequest: shapes do not fit, or there are fewer than two folds.
        MeasurementFailed: a class has fewer pictures than folds, or features are not finite.
    """
    inputs, known = _checked(features, labels, folds)
    names, targets = known.unique(return_inverse=True)
    parts = _folds(targets, folds, generator)
    predictions = torch.empty_like(targets)
    for part in range(folds):
        train = parts != part
        answers = _fitted(inputs[train], targets[train], len(names), inputs[~train])
        predictions[~train] = answers.argmax(dim=1)
    counted = torch.ones_like(targets, dtype=torch.bool)
    if of is not None:
        counted = torch.isin(known, torch.tensor(list(of)))
        if not counted.any():
            raise MeasurementFailed(f"no picture shows a class of {list(of)}; add pictures of them")
    hits = tuple((predictions == targets)[counted].double().tolist())
    chance = float(targets[counted].bincount().max()) / len(hits)
    return Probe(rate(hits), chance, hits)


def compare_probes(before: Probe, after: Probe) -> Comparison:
    """Compares the probes of two networks on the same pictures, in pairs."""
    if len(before.hits) != len(after.hits):
        raise BadRequest(
            f"{len(before.hits)} pictures were probed before and {len(after.hits)} after; probe "
            "the same pictures"
        )
    return compare_rates(before.hits, after.hits)


def share_left(before: Probe, after: Probe) -> float:
    """Gives how much of what could be read above chance still can: 1: only unread; 0: gone.

    Not clipped: noise, or an edit that makes features clearer, goes beyond.

    Raises:
        MeasurementFailed: nothing could be read before, so nothing can be said.
    """
    known = before.accuracy.value - before.chance
    if known <= 0 or before.accuracy.low <= before.chance:
        raise MeasurementFailed(
            f"a probe of the unedited features scores {before.accuracy.value:.3f}, not surely "
            f"above chance ({before.chance:.3f}); probe more pictures, or features that know "
            "the classes"
        )
    return (after.accuracy.value - after.chance) / known


def relearning(
    steps: Sequence[int], accuracies: Sequence[float], *, before: float, share: float = 0.5
) -> Relearning:
    """Says after how many steps a share of the lost accuracy is back.

    Args:
        steps: at which training steps the forgotten classes were looked at, from 0 on.
        accuracies: what was measured then; the first is that of the edited network.
        before: accuracy of the unedited network.
        share: of the distance between the two.

    Raises:
        BadRequest: steps do not rise from 0, or ``share`` is not above 0 and at most 1.
        MeasurementFailed: an accuracy is not finite, or nothing was lost.
    """
    if len(steps) != len(accuracies) or len(steps) < 2:
        raise BadRequest(
            f"{len(steps)} steps and {len(accuracies)} accuracies give no curve; look at step 0 "
            "and at one later at least"
        )
    if steps[0] != 0 or any(b <= a for a, b in pairwise(steps)):
        raise BadRequest(f"steps {list(steps)} must rise from 0")
    if not 0 < share <= 1:
        raise BadRequest(f"share is {share}; it must be above 0 and at most 1")
    if not all(math.isfinite(one) for one in (*accuracies, before)):
        raise MeasurementFailed("an accuracy on the way is not finite, so there is no curve")
    if accuracies[0] >= before:
        raise MeasurementFailed(
            f"accuracy was {before:.3f} before and {accuracies[0]:.3f} after the edit: nothing was "
            "lost that could come back"
        )
    target = accuracies[0] + share * (before - accuracies[0])
    for place, accuracy in enumerate(accuracies):
        if accuracy >= target:
            return Relearning(
                steps[place], steps[place - 1], steps[-1], target, float(accuracies[-1])
            )
    return Relearning(None, steps[-1], steps[-1], target, float(accuracies[-1]))


def _checked(features: Tensor, labels: Tensor, folds: int) -> tuple[Tensor, Tensor]:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise BadRequest(
            f"features of shape {tuple(features.shape)} and labels of shape {tuple(labels.shape)} "
            "do not fit; give (n, dim) and (n,)"
        )
    if folds < 2:
        raise BadRequest(f"{folds} folds cannot be cross-validated; use two or more")
    inputs, known = features.detach().to("cpu", torch.float64), labels.to("cpu", torch.int64)
    if not torch.isfinite(inputs).all():
        raise MeasurementFailed("features are not finite, so they cannot be probed")
    names, counts = known.unique(return_counts=True)
    if len(names) < 2:
        raise MeasurementFailed(f"{len(names)} classes cannot be told apart; probe two or more")
    if int(counts.min()) < folds:
        raise MeasurementFailed(
            f"class {int(names[counts.argmin()])} has {int(counts.min())} pictures for {folds} "
            "folds; add pictures or use fewer folds"
        )
    return inputs, known


def _folds(targets: Tensor, folds: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    parts = torch.empty_like(targets)
    for number in range(int(targets.max()) + 1):
        mine = (targets == number).nonzero().squeeze(1)
        shuffled = mine[torch.randperm(len(mine), generator=generator)]
        # A different first fold per class keeps the folds of like size.
        parts[shuffled] = (torch.arange(len(mine)) + number) % folds
    return parts


def _fitted(
    train: Float[Tensor, "n dim"], targets: Int[Tensor, " n"], classes: int, test: Tensor
) -> Float[Tensor, "m classes"]:
    """Solves ridge regression on one-hot targets and answers for the test pictures."""
    centre, spread = train.mean(dim=0), train.std(dim=0)
    # Features that do not vary say nothing; dividing by their spread would blow up rounding.
    varies = spread > 1e-9 * (1 + centre.abs())
    scale = torch.where(varies, 1 / spread.clamp(min=1e-300), 0.0)
    inputs, asked = (train - centre) * scale, (test - centre) * scale
    wanted = torch.nn.functional.one_hot(targets, classes).double()
    offset = wanted.mean(dim=0)
    left, singular, right = torch.linalg.svd(inputs, full_matrices=False)
    squares = singular.square()
    if not varies.any():
        return offset.expand(len(test), classes)
    unit = float(squares.sum()) / int(varies.sum())
    inside = left.T @ (wanted - offset)
    best, least = STRENGTHS[0], math.inf
    for strength in STRENGTHS:
        shrunk = squares / (squares + strength * unit)
        leverage = (left.square() * shrunk).sum(dim=1) + 1 / len(train)
        rest = wanted - offset - left @ (shrunk[:, None] * inside)
        error = float((rest / (1 - leverage).clamp(min=1e-9)[:, None]).square().mean())
        if error < least:
            best, least = strength, error
    weights = right.T @ ((singular / (squares + best * unit))[:, None] * inside)
    answers: Tensor = asked @ weights + offset
    return answers
