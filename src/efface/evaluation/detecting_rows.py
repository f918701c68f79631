"""From what a detector finds to rows: things found and average precision, by role."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from efface.contracts import Better, Role
from efface.evaluation.detection import (
    DetectedBoxes,
    DetectionScores,
    TrueBoxes,
    compare_ap50,
    found_things,
    score_detections,
)
from efface.evaluation.record import Measurement, Sighting
from efface.evaluation.samples import GOING, ROLES
from efface.hosts.boxes import overlaps
from efface.metrics.estimates import compare_rates, rate
from efface.randomness import derive

__all__ = ["LEAST_SCORE", "Look", "Things", "measured", "went"]

LEAST_SCORE = 0.5
"""Boxes of a lower score are not counted as found."""
_COVERED = 0.5
"""Least intersection over union of a box and the thing in its place."""


@dataclass(frozen=True, kw_only=True)
class Things:
    """All things of some scenes, scene by scene."""

    scenes: Int[Tensor, " n"]
    """In which scene each is."""
    boxes: Float[Tensor, "n 4"]
    classes: Int[Tensor, " n"]
    roles: tuple[Role, ...]

    def of(self, *roles: Role) -> Bool[Tensor, " n"]:
        """Says which things have one of some roles."""
        return torch.tensor([own in roles for own in self.roles], dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a detector finds in all scenes."""

    found: Bool[Tensor, " n"]
    """Which things it finds."""
    called: Int[Tensor, " n"]
    """What the surest box in each thing's place says; -1: nothing is found there."""
    scores: Float[Tensor, " n"]
    """How sure that box is; 0 where there is none."""
    boxes: Int[Tensor, " classes"]
    """How many boxes of each class it finds."""
    precision: DetectionScores
    seconds: float

    @property
    def scenes(self) -> int:
        """Counts the scenes."""
        return self.precision.pictures

    @classmethod
    def of(
        cls,
        detected: Sequence[DetectedBoxes],
        true: Sequence[TrueBoxes],
        classes: int,
        seconds: float,
    ) -> Look:
        """Compares what was found with what is there.

        Raises:
            MeasurementFailed: there is no scene.
        """
        precision = score_detections(detected, true, classes=classes)
        sure = [one.classes[one.scores >= LEAST_SCORE].cpu() for one in detected]
        places = [_called(one, things) for one, things in zip(detected, true, strict=True)]
        return cls(
            found=torch.cat(
                [
                    found_things(one, things, least_score=LEAST_SCORE)
                    for one, things in zip(detected, true, strict=True)
                ]
            ),
            called=torch.cat([called for called, _ in places]),
            scores=torch.cat([scores for _, scores in places]),
            boxes=torch.cat(sure).bincount(minlength=classes),
            precision=precision,
            seconds=seconds,
        )


def _called(
    detected: DetectedBoxes, true: TrueBoxes
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Gives the class and score of the surest box that covers each thing, whatever its class."""
    sure = detected.scores >= LEAST_SCORE
    scores, classes = detected.scores[sure].float().cpu(), detected.classes[sure].cpu()
    if not len(scores):
        return torch.full((len(true.classes),), -1), torch.zeros(len(true.classes))
    boxes = true.boxes.to(detected.boxes).double()
    covers = overlaps(detected.boxes[sure].double(), boxes).cpu() >= _COVERED
    best, which = torch.where(covers, scores[:, None], 0.0).max(dim=0)
    return torch.where(best > 0, classes[which], -1), best


def measured(
    before: Look, after: Look, things: Things, names: Sequence[str]
) -> Iterator[Measurement]:
    """Estimates for each role and erased class how many things are found, and AP50.

    Args:
        before: what the unedited model finds.
        after: what the edited model finds.
        things: what is there.
        names: of the classes, by number.
    """
    for role in [each for each in ROLES if each in things.roles]:
        own = things.of(role)
        classes = things.classes[own].unique().tolist()
        yield _found(before, after, things, own, role, None)
        yield _precision(before, after, classes, role, None)
        if role in GOING and len(classes) > 1:
            for number in classes:
                mine = own & (things.classes == number)
                yield _found(before, after, things, mine, role, names[number])
                yield _precision(before, after, [number], role, names[number])


def _better(role: Role) -> Better:
    return "lower" if role in GOING else "higher"


def _found(
    before: Look,
    after: Look,
    things: Things,
    own: Bool[Tensor, " n"],
    role: Role,
    concept: str | None,
) -> Measurement:
    scenes = things.scenes[own].tolist()
    both = [look.found[own].double().tolist() for look in (before, after)]
    paired = compare_rates(both[0], both[1], scenes)
    return Measurement(
        metric="found",
        unit="rate",
        better=_better(role),
        role=role,
        concept=concept,
        before=rate(both[0], scenes),
        after=rate(both[1], scenes),
        change=paired.difference,
        p_value=paired.p_value,
    )


def _precision(
    before: Look, after: Look, classes: list[int], role: Role, concept: str | None
) -> Measurement:
    both = [
        look.precision.mean_ap50(classes, derive(0, "average precision"))
        for look in (before, after)
    ]
    change = compare_ap50(
        before.precision, after.precision, classes, derive(0, "average precision")
    )
    return Measurement(
        metric="ap50",
        unit="ap",
        better=_better(role),
        role=role,
        concept=concept,
        before=both[0],
        after=both[1],
        change=change,
    )


def went(before: Look, after: Look, things: Things, names: Sequence[str]) -> list[Sighting]:
    """Counts what the places of things of each erased class are called, most frequent first."""
    sightings = []
    own = things.of("erased")
    for number in things.classes[own].unique().tolist():
        mine = things.classes == number
        counts = [
            (look.called[mine] + 1).bincount(minlength=len(names) + 1) for look in (before, after)
        ]
        called = [n for n in range(len(names) + 1) if counts[0][n] or counts[1][n]]
        called.sort(key=lambda n: (-int(counts[1][n]), n))
        sightings += [
            Sighting(
                names[number],
                names[n - 1] if n else "",
                int(counts[0][n]),
                int(counts[1][n]),
                int(mine.sum()),
            )
            for n in called
        ]
    return sightings
