"""From a recogniser's answers to rows: accuracies by role, and what features still say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from efface.contracts import Better, Role
from efface.errors import MeasurementFailed
from efface.evaluation.membership_rows import TrainedOn
from efface.evaluation.probing import compare_probes, linear_probe
from efface.evaluation.record import Measurement, Sighting
from efface.evaluation.samples import GOING, ROLES
from efface.metrics.estimates import compare_rates, rate
from efface.randomness import derive

__all__ = ["Seen", "measured", "went"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a model says of a suite's pictures."""

    logits: Float[Tensor, "n classes"]
    features: Float[Tensor, "n dim"]
    """What the head reads."""
    within_margin: Bool[Tensor, " n"] | None
    """Which pictures get their true name also with the margin of the head taken off."""
    seconds: float
    trained: TrainedOn[Float[Tensor, "n classes"]] | None = None
    """Logits of pictures that the model was trained on, where those are known."""

    def right(self, labels: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Says which pictures get their true name."""
        return self.logits.argmax(1) == labels

    @property
    def finite(self) -> bool:
        """Whether every answer is a number."""
        taught = [] if self.trained is None else [self.trained.forgotten, self.trained.retained]
        return all(bool(each.isfinite().all()) for each in (self.logits, self.features, *taught))


def measured(
    before: Seen,
    after: Seen,
    labels: Int[Tensor, " n"],
    roles: Sequence[Role],
    names: Sequence[str],
) -> Iterator[Measurement]:
    """Estimates accuracy for each role and erased class, and what features still say of them.

    Args:
        before: the unedited model's answers.
        after: the edited model's.
        labels: the class of each picture.
        roles: the role of each picture.
        names: of the classes, by number.
    """
    right = [seen.right(labels).float().tolist() for seen in (before, after)]
    held = [seen.within_margin for seen in (before, after)]
    margin = [each.float().tolist() for each in held if each is not None]
    for role in [each for each in ROLES if each in roles]:
        places = [place for place, own in enumerate(roles) if own == role]
        classes = [names[int(labels[place])] for place in places]
        both = [[values[place] for place in places] for values in right]
        yield _row("recognised", role, None, both, classes)
        if role in GOING and len(set(classes)) > 1:
            for name in dict.fromkeys(classes):
                own = [n for n, other in enumerate(classes) if other == name]
                each = [[values[n] for n in own] for values in both]
                # Pictures of one class, so that each counts by itself.
                yield _row("recognised", role, name, each, [str(place) for place in own])
        if margin:
            both = [[values[place] for place in places] for values in margin]
            yield _row("recognised_with_margin", role, None, both, classes)
    yield from _probed(before, after, labels, roles)


def _probed(
    before: Seen, after: Seen, labels: Int[Tensor, " n"], roles: Sequence[Role]
) -> Iterator[Measurement]:
    """Trains a linear classifier on features: is what was erased gone, or only unread?

    Nothing is said where a class has too few pictures to train one.
    """
    own = labels[torch.tensor([role == "erased" for role in roles])].unique().tolist()
    try:
        probes = [
            linear_probe(seen.features, labels, generator=derive(0, "probe"), of=own)
            for seen in (before, after)
        ]
    except MeasurementFailed:
        return
    paired = compare_probes(*probes)
    yield Measurement(
        metric="probe",
        unit="rate",
        better="lower",
        role="erased",
        before=probes[0].accuracy,
        after=probes[1].accuracy,
        change=paired.difference,
        p_value=paired.p_value,
    )


def _row(
    metric: str, role: Role, concept: str | None, both: list[list[float]], groups: list[str]
) -> Measurement:
    first, second = (rate(values, groups) for values in both)
    paired = compare_rates(both[0], both[1], groups)
    better: Better = "lower" if role in GOING else "higher"
    return Measurement(
        metric=metric,
        unit="rate",
        better=better,
        role=role,
        concept=concept,
        before=first,
        after=second,
        change=paired.difference,
        p_value=paired.p_value,
    )


def went(
    before: Seen,
    after: Seen,
    labels: Int[Tensor, " n"],
    roles: Sequence[Role],
    names: Sequence[str],
) -> list[Sighting]:
    """Counts what pictures of each erased class are called, most frequent first."""
    found = []
    erased = labels[torch.tensor([role == "erased" for role in roles])].unique().tolist()
    for number in erased:
        own = labels == number
        counts = [
            torch.bincount(seen.logits.argmax(1)[own], minlength=len(names))
            for seen in (before, after)
        ]
        called = [n for n in range(len(names)) if counts[0][n] or counts[1][n]]
        called.sort(key=lambda n: (-int(counts[1][n]), names[n]))
        found += [
            Sighting(names[number], names[n], int(counts[0][n]), int(counts[1][n]), int(own.sum()))
            for n in called
        ]
    return found
