"""Can it be told that a forgotten picture was once trained on? Attacks of membership inference.

Every attack is told nothing about forgotten pictures: thresholds come from pictures that stay
(members) and pictures that were never trained on (non-members), in equal numbers. After perfect
forgetting, forgotten pictures look like non-members and their AUC against these is 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Estimate
from efface.errors import BadRequest, MeasurementFailed, MissingInput
from efface.evaluation.answers import Answers, finite_scores
from efface.evaluation.ranking import OperatingPoint, area, auc, auc_interval, operating_point
from efface.metrics.estimates import rate
from efface.randomness import split

__all__ = [
    "FALSE_POSITIVES",
    "LikelihoodAttack",
    "Signal",
    "ThresholdAttack",
    "likelihood_ratios",
    "modified_entropy",
    "svc_attack",
    "threshold_attack",
    "true_confidence",
    "u_lira",
]

FALSE_POSITIVES = 0.01
"""The false positive rate at which attacks are compared (Carlini et al., 2022 [recalled])."""

Signal: TypeAlias = Literal["confidence", "modified_entropy"]


@dataclass(frozen=True)
class ThresholdAttack:
    """What one threshold on one number per picture finds out."""

    threshold: float
    """From the calibration half; pictures at or above it are called members."""
    calibration: Estimate
    """Held-out members and non-members that it tells right; about 0.5: it knows nothing, and a
    small ``called_member`` then says nothing either."""
    auc: Estimate
    """Held-out members against held-out non-members."""
    at_low_false_positives: OperatingPoint
    """Held-out members at `FALSE_POSITIVES`."""
    called_member: Estimate
    """Share of forgotten pictures at or above the threshold; the rest is the papers' "MIA"."""
    forgotten_auc: Estimate
    """Forgotten pictures against held-out non-members; 0.5 is ideal, below it is over-forgetting,
    which gives a picture away as well."""
    forgotten_at_low_false_positives: OperatingPoint


@dataclass(frozen=True)
class LikelihoodAttack:
    """What U-LiRA finds out, over all pictures and models."""

    accuracy: Estimate
    """Models that it tells right, over pictures; half unlearned, half retrained is chance 0.5."""
    auc: Estimate
    """Unlearned against retrained, the mean over pairs of models; its interval counts pictures, not
    pictures times models."""
    true_positives: Estimate
    """Unlearned ones called so at the threshold of each pair that keeps `FALSE_POSITIVES`. With n
    pictures, equal ensembles reach about 2 / n more, since the threshold is found on the same."""
    false_positives: Estimate
    """Retrained ones called unlearned at the same thresholds."""


def true_confidence(answers: Answers) -> Float[Tensor, " n"]:
    """Gives the softmax probability of the true class."""
    return answers.margins.sigmoid()


def modified_entropy(answers: Answers) -> Float[Tensor, " n"]:
    """Gives Song and Mittal's modified entropy, which is low for confident right answers.

    ``-(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i)`` (USENIX Security 2021), with
    ``log(1 - p)`` taken from the logits of the other classes, so that no logarithm of 0 appears.
    """
    logits = answers.logits.double()
    logs = logits.log_softmax(dim=1)
    rest = torch.stack(
        [_without(logits, one).logsumexp(dim=1) for one in range(answers.classes)], dim=1
    ) - logits.logsumexp(dim=1, keepdim=True)
    places = answers.labels.long()[:, None]
    true = -(rest.exp() * logs).gather(1, places).squeeze(1)
    others = -(logs.exp() * rest).scatter(1, places, 0.0).sum(dim=1)
    return true + others


def threshold_attack(
    members: Answers,
    outsiders: Answers,
    forgotten: Answers,
    *,
    generator: torch.Generator,
    signal: Signal = "confidence",
) -> ThresholdAttack:
    """Calibrates a threshold on a balanced split and turns it on the forgotten pictures.

    As many members as non-members are drawn; half of each sets the threshold of best accuracy (the
    middle between neighbouring scores, of several the lowest), the other half is held out.

    Args:
        members: pictures that were trained on and stay.
        outsiders: pictures that were never trained on, of the classes that members show.
        forgotten: pictures that were to be forgotten.
        generator: draws both splits.
        signal: what is compared; a membership score is the higher the surer.

    Raises:
        MeasurementFailed: fewer than four members or non-members.
        BadRequest: the signal is unknown.
    """
    score = _signal(signal)
    smallest = min(len(members), len(outsiders))
    if smallest < 4:
        raise MeasurementFailed(
            f"{len(members)} members and {len(outsiders)} non-members cannot be split; give at "
            "least four of each"
        )
    draws = split(generator, "members", "outsiders")
    tuned, held = _halves(score(members), smallest, draws["members"])
    tuned_out, held_out = _halves(score(outsiders), smallest, draws["outsiders"])
    threshold = _best_threshold(tuned, tuned_out)
    right = torch.cat([held >= threshold, held_out < threshold])
    target = score(forgotten)
    return ThresholdAttack(
        threshold=threshold,
        calibration=rate(right.double().tolist()),
        auc=auc(held, held_out),
        at_low_false_positives=operating_point(held, held_out, false_positive_rate=FALSE_POSITIVES),
        called_member=rate((target >= threshold).double().tolist()),
        forgotten_auc=auc(target, held_out),
        forgotten_at_low_false_positives=operating_point(
            target, held_out, false_positive_rate=FALSE_POSITIVES
        ),
    )


def likelihood_ratios(
    observed: Float[Tensor, " n"],
    inside: Float[Tensor, "models n"],
    outside: Float[Tensor, "others n"],
) -> Float[Tensor, " n"]:
    """Gives the log likelihood ratio of one model's margins: unlearned against retrained.

    A normal distribution is fitted to every picture's margins, with the picture's own means and one
    variance per side for all pictures, since ensembles of a few models give no variance of their
    own (LiRA's global variance [recalled]).

    Args:
        observed: margins of the model that is asked about (`Answers.margins`).
        inside: margins of models that were trained on the pictures and unlearned them.
        outside: margins of models that never saw them.

    Raises:
        MeasurementFailed: fewer than two models on a side, or no spread between them.
    """
    seen = finite_scores(observed, "margins")
    first, second = _ensemble(inside, len(seen)), _ensemble(outside, len(seen))
    return _log_density(seen, first) - _log_density(seen, second)


def u_lira(
    unlearned: Float[Tensor, "models n"], retrained: Float[Tensor, "others n"]
) -> LikelihoodAttack:
    """Asks of every model in turn, by the others, whether it once saw each picture.

    U-LiRA (Hayes et al., 2024 [recalled]) by leaving out in place of extra models: for every pair
    of an unlearned and a retrained model, normals are fitted to all others and both are asked.
    Leaving out one of each, and as many models of either (the first ones), keeps both fits alike;
    otherwise equal ensembles come out below chance.

    Args:
        unlearned: logit margins of the forgotten pictures, one row per unlearned model.
        retrained: the same for models trained without them.

    Raises:
        MeasurementFailed: fewer than three models on a side.
    """
    pictures, models = unlearned.shape[-1], min(len(unlearned), len(retrained))
    first = _ensemble(unlearned, pictures, 3)[:models]
    second = _ensemble(retrained, pictures, 3)[:models]
    areas: list[float] = []
    right: list[float] = []
    passed: tuple[list[float], list[float]] = ([], [])
    for one, other in product(range(models), repeat=2):
        fits = (_left_out(first, one), _left_out(second, other))
        positives = likelihood_ratios(first[one], *fits)
        negatives = likelihood_ratios(second[other], *fits)
        areas.append(area(positives, negatives))
        right += torch.cat([positives > 0, negatives <= 0]).double().tolist()
        point = operating_point(positives, negatives, false_positive_rate=FALSE_POSITIVES)
        passed[0].extend((positives >= point.threshold).double().tolist())
        passed[1].extend((negatives >= point.threshold).double().tolist())
    groups = list(range(pictures)) * models**2
    value = sum(areas) / len(areas)
    return LikelihoodAttack(
        accuracy=rate(right, groups * 2),
        auc=Estimate(value, *auc_interval(value, pictures, pictures), len(right)),
        true_positives=rate(passed[0], groups),
        false_positives=rate(passed[1], groups),
    )


def svc_attack(
    members: Answers, outsiders: Answers, forgotten: Answers, *, generator: torch.Generator
) -> Estimate:
    """Gives the share of forgotten pictures that the papers' classifier calls non-members.

    A support vector classifier (RBF kernel, C = 3, gamma 'auto') on the confidence of the true
    class, as SalUn and Unlearn-WorstCase report as "MIA"; here on as many members as non-members,
    drawn at random, at most 5,000 of each. For comparison with their tables; `threshold_attack`
    says more.

    Raises:
        MissingInput: scikit-learn is not installed.
    """
    classifier = _support_vectors()(C=3, kernel="rbf", gamma="auto")
    count = min(len(members), len(outsiders), 5000)
    draws = split(generator, "members", "outsiders")
    inside = _drawn(true_confidence(members).cpu(), count, draws["members"])
    outside = _drawn(true_confidence(outsiders).cpu(), count, draws["outsiders"])
    features = torch.cat([inside, outside])[:, None].numpy()
    classifier.fit(features, [1] * count + [0] * count)
    called = classifier.predict(true_confidence(forgotten).cpu()[:, None].numpy())
    return rate([float(one == 0) for one in called])


def _support_vectors() -> Any:
    try:
        from sklearn.svm import SVC
    except ImportError:
        raise MissingInput(
            "the papers' membership classifier needs scikit-learn, which is not installed; run "
            "pip install 'efface[membership]', or use threshold_attack, which needs nothing"
        ) from None
    return SVC


def _signal(name: str) -> Callable[[Answers], Tensor]:
    # Margins order pictures as confidences do, and do not round to 1.
    known: dict[str, Callable[[Answers], Tensor]] = {
        "confidence": lambda answers: finite_scores(answers.margins, "margins"),
        "modified_entropy": lambda answers: finite_scores(
            -modified_entropy(answers), "modified entropies"
        ),
    }
    if name not in known:
        raise BadRequest(f"'{name}' is not a signal of membership; use {' or '.join(known)}")
    return known[name]


def _without(logits: Tensor, column: int) -> Tensor:
    return torch.cat([logits[:, :column], logits[:, column + 1 :]], dim=1)


def _drawn(scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
    # Sorted first, so that the draw does not depend on the order of the pictures.
    return scores.sort().values[torch.randperm(len(scores), generator=generator)[:count]]


def _halves(scores: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    chosen = _drawn(scores, count, generator)
    return chosen[: count // 2], chosen[count // 2 :]


def _best_threshold(members: Tensor, outsiders: Tensor) -> float:
    scores = torch.cat([members, outsiders]).unique()
    middle = (scores[1:] + scores[:-1]) / 2
    candidates = torch.cat([torch.tensor([-math.inf]).double(), middle])
    members, outsiders = members.sort().values, outsiders.sort().values
    kept = len(members) - torch.searchsorted(members, candidates)
    refused = torch.searchsorted(outsiders, candidates)
    return float(candidates[(kept / len(members) + refused / len(outsiders)).argmax()])


def _ensemble(margins: Tensor, pictures: int, least: int = 2) -> Tensor:
    if margins.ndim != 2 or margins.shape[1] != pictures:
        raise BadRequest(
            f"margins have shape {tuple(margins.shape)}; give (models, {pictures} pictures)"
        )
    if len(margins) < least:
        raise MeasurementFailed(
            f"{len(margins)} models give no distribution; train at least {least} with other seeds"
        )
    return finite_scores(margins.flatten(), "margins").reshape(margins.shape)


def _left_out(margins: Tensor, one: int) -> Tensor:
    return torch.cat([margins[:one], margins[one + 1 :]])


def _log_density(seen: Tensor, margins: Tensor) -> Tensor:
    variance = margins.var(dim=0).mean()
    if float(variance) <= 0:
        raise MeasurementFailed(
            f"{len(margins)} models give the very same margins, so they have no distribution; "
            "train them with different seeds"
        )
    error = seen - margins.mean(dim=0)
    # The picture's mean is itself uncertain by variance / models.
    wide = variance * (1 + 1 / len(margins))
    return -0.5 * (error.square() / wide + (2 * math.pi * wide).log())
