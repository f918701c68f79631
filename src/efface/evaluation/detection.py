"""Average precision of detections, exactly as COCO's evaluation counts it.

Written here because torchmetrics' MeanAveragePrecision refuses to run without torchvision and
pycocotools; a slow test compares the two countings where pycocotools is installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from efface.contracts import Estimate
from efface.errors import BadRequest, MeasurementFailed
from efface.hosts.boxes import overlaps
from efface.metrics.estimates import UNKNOWN

__all__ = [
    "MOST_DETECTIONS",
    "OVERLAPS",
    "DetectedBoxes",
    "DetectionScores",
    "TrueBoxes",
    "compare_ap50",
    "found_things",
    "score_detections",
]

OVERLAPS = tuple(0.5 + 0.05 * step for step in range(10))
"""Intersections over union that AP averages over; AP50 is the first."""
MOST_DETECTIONS = 100
"""Per picture and class, the surest."""
_RECALLS = np.linspace(0, 1, 101)
_DRAWS = 500


@dataclass(frozen=True, eq=False)
class TrueBoxes:
    """What a picture shows: boxes as centre, width and height, and their classes."""

    boxes: Float[Tensor, "m 4"]
    classes: Int[Tensor, " m"]

    def __post_init__(self) -> None:
        _check(self.boxes, self.classes)


@dataclass(frozen=True, eq=False)
class DetectedBoxes:
    """What a detector finds in a picture, in any order."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    classes: Int[Tensor, " n"]

    def __post_init__(self) -> None:
        _check(self.boxes, self.classes)
        if self.scores.shape != self.classes.shape:
            raise BadRequest(
                f"{len(self.boxes)} boxes have {len(self.scores)} scores; give one score each"
            )
        if not torch.isfinite(self.scores).all():
            raise MeasurementFailed(
                "scores of detections are not finite, so nothing is counted; see what the "
                "detector computes"
            )


@dataclass(frozen=True, eq=False)
class _Found:
    """All detections of one class, surest first, and where its true boxes are."""

    pictures: NDArray[np.intp]
    """(detections,): in which picture each is."""
    matched: NDArray[np.bool_]
    """(overlaps, detections): whether each is the match of a true box."""
    truths: NDArray[np.intp]
    """(pictures,): true boxes in each picture."""


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """Matches of all detections, from which AP is taken for classes and for sets of them."""

    pictures: int
    found: dict[int, _Found]
    """By class."""

    def truths(self, number: int) -> int:
        """Counts the true boxes of a class."""
        return int(self._of(number).truths.sum())

    def ap(self, number: int) -> float:
        """Gives AP of one class, the mean over `OVERLAPS`.

        Raises:
            MeasurementFailed: no picture shows the class.
        """
        return float(self._curve(number).mean())

    def ap50(self, number: int) -> float:
        """Gives AP of one class at an overlap of one half.

        Raises:
            MeasurementFailed: no picture shows the class.
        """
        return float(self._curve(number)[0])

    def mean_ap(self, numbers: Sequence[int], generator: torch.Generator | None = None) -> Estimate:
        """Estimates the mean AP of some classes; see `mean_ap50`."""
        return self._mean(numbers, slice(None), generator)

    def mean_ap50(
        self, numbers: Sequence[int], generator: torch.Generator | None = None
    ) -> Estimate:
        """Estimates the mean AP50 of some classes, with an interval by bootstrap over pictures.

        Without a generator the interval is NaN. The count is that of true boxes.

        Raises:
            MeasurementFailed: one of the classes is shown by no picture.
        """
        return self._mean(numbers, slice(0, 1), generator)

    def _mean(
        self, numbers: Sequence[int], which: slice, generator: torch.Generator | None
    ) -> Estimate:
        if not numbers:
            raise MeasurementFailed("there are no classes to average over; name at least one")
        value = float(np.mean([self._curve(one)[which].mean() for one in numbers]))
        count = sum(self.truths(one) for one in numbers)
        if generator is None:
            return Estimate(value, math.nan, math.nan, count)
        known = [one for one in self._draws(numbers, which, generator) if not math.isnan(one)]
        if not known:
            return Estimate(value, UNKNOWN.low, UNKNOWN.high, count)
        low, high = np.quantile(known, [0.025, 0.975])
        return Estimate(value, float(low), float(high), count)

    def _draws(
        self, numbers: Sequence[int], which: slice, generator: torch.Generator
    ) -> list[float]:
        return [self._drawn(numbers, which, generator) for _ in range(_DRAWS)]

    def _drawn(self, numbers: Sequence[int], which: slice, generator: torch.Generator) -> float:
        """Gives the mean over pictures drawn with replacement; classes not drawn are left out."""
        places = torch.randint(self.pictures, (self.pictures,), generator=generator).numpy()
        times = np.bincount(places, minlength=self.pictures)
        curves = [_average_precision(self._of(one), times, which) for one in numbers]
        there = [float(curve.mean()) for curve in curves if curve is not None]
        return float(np.mean(there)) if there else math.nan

    def _of(self, number: int) -> _Found:
        if number not in self.found:
            raise BadRequest(
                f"class {number} was not scored; the classes are 0 to {len(self.found) - 1}"
            )
        return self.found[number]

    def _curve(self, number: int) -> NDArray[np.float64]:
        once = np.ones(self.pictures, dtype=np.intp)
        curve = _average_precision(self._of(number), once, slice(None))
        if curve is None:
            raise MeasurementFailed(
                f"no picture shows class {number}, so it has no average precision; add pictures "
                "of it or leave it out"
            )
        return curve


def compare_ap50(
    before: DetectionScores,
    after: DetectionScores,
    numbers: Sequence[int],
    generator: torch.Generator,
) -> Estimate:
    """Estimates by how much the mean AP50 of some classes changed, on the same pictures.

    The interval is by bootstrap, with the same pictures drawn for both.

    Raises:
        BadRequest: the scores are of different numbers of pictures.
        MeasurementFailed: one of the classes is shown by no picture.
    """
    if before.pictures != after.pictures:
        raise BadRequest(
            f"{before.pictures} pictures were scored before and {after.pictures} after; score the "
            "same ones"
        )
    state = generator.get_state()
    first = before._draws(numbers, slice(0, 1), generator)
    generator.set_state(state)
    second = after._draws(numbers, slice(0, 1), generator)
    apart = [b - a for a, b in zip(first, second, strict=True) if not math.isnan(b - a)]
    value = after.mean_ap50(numbers).value - before.mean_ap50(numbers).value
    low, high = np.quantile(apart, [0.025, 0.975]) if apart else (UNKNOWN.low, UNKNOWN.high)
    return Estimate(value, float(low), float(high), before.mean_ap50(numbers).count)


def score_detections(
    detected: Sequence[DetectedBoxes], true: Sequence[TrueBoxes], *, classes: int
) -> DetectionScores:
    """Matches detections with true boxes, picture by picture and class by class.

    As in COCO: the surest first, each takes the free true box that it overlaps most, if by enough.
    There are no crowds and no sizes.

    Args:
        detected: what was found, by picture.
        true: what is there, by picture.
        classes: how many classes there are, without "nothing".

    Raises:
        MeasurementFailed: there is no picture.
        BadRequest: the lists differ in length, or a class is out of range.
    """
    if len(detected) != len(true):
        raise BadRequest(
            f"{len(detected)} pictures were detected in and {len(true)} have true boxes; give the "
            "same pictures in the same order"
        )
    if not true:
        raise MeasurementFailed("there is no picture to measure on; give at least one")
    for numbers in [one.classes for one in detected] + [one.classes for one in true]:
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes:
            raise BadRequest(
                f"boxes have classes {int(numbers.min())} to {int(numbers.max())}, but "
                f"there are {classes}; number them as the head does"
            )
    found = {number: _found(detected, true, number) for number in range(classes)}
    return DetectionScores(len(true), found)


def _found(detected: Sequence[DetectedBoxes], true: Sequence[TrueBoxes], number: int) -> _Found:
    """Matches one class in all pictures and puts its detections in order."""
    parts = [_matched(a, b, number) for a, b in zip(detected, true, strict=True)]
    scores = np.concatenate([part[0] for part in parts])
    order = np.argsort(-scores, kind="stable")
    places = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    truths = np.array([int((one.classes == number).sum()) for one in true], dtype=np.intp)
    matched = np.concatenate([part[1] for part in parts], axis=1)
    return _Found(places[order], matched[:, order], truths)


def _matched(
    detected: DetectedBoxes, true: TrueBoxes, number: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Gives scores of one class in one picture, surest first, and which match a true box."""
    mine = (detected.classes == number).nonzero().squeeze(1)
    mine = mine[detected.scores[mine].argsort(descending=True, stable=True)[:MOST_DETECTIONS]]
    boxes = true.boxes[true.classes == number]
    table = overlaps(detected.boxes[mine].double(), boxes.double()).detach().cpu().numpy()
    scores = detected.scores[mine].detach().double().cpu().numpy()
    return scores, np.stack([_greedy(table, least) >= 0 for least in OVERLAPS])


def found_things(
    detected: DetectedBoxes, true: TrueBoxes, *, least_score: float = 0.5
) -> Bool[Tensor, " m"]:
    """Says which things of a picture a box of their class covers, by at least half of their union.

    Args:
        detected: what was found in the picture.
        true: what is there.
        least_score: boxes of a lower score are left out.
    """
    found = torch.zeros(len(true.classes), dtype=torch.bool)
    sure = detected.scores >= least_score
    for number in true.classes.unique().tolist():
        mine = (sure & (detected.classes == number)).nonzero().squeeze(1)
        mine = mine[detected.scores[mine].argsort(descending=True, stable=True)]
        places = (true.classes == number).nonzero().squeeze(1)
        boxes = true.boxes[places].to(detected.boxes).double()
        table = overlaps(detected.boxes[mine].double(), boxes).detach().cpu().numpy()
        taken = _greedy(table, OVERLAPS[0])
        found[places.cpu()[torch.from_numpy(taken[taken >= 0])]] = True
    return found


def _greedy(table: NDArray[np.float64], least: float) -> NDArray[np.intp]:
    """Lets every detection take the free box that it overlaps most; of equal ones the last.

    Gives the box of each, -1 where it takes none.
    """
    taken = np.full(len(table), -1, dtype=np.intp)
    if not table.size:
        return taken
    free = table.copy()
    enough = least - 1e-10
    for place in np.flatnonzero(table.max(axis=1) >= enough):
        row = free[place]
        box = len(row) - 1 - int(row[::-1].argmax())
        if row[box] >= enough:
            free[:, box] = -1
            taken[place] = box
    return taken


def _average_precision(
    found: _Found, times: NDArray[np.intp], which: slice
) -> NDArray[np.float64] | None:
    """Gives AP for some overlaps: precision at 101 recalls, each the best at that recall or more.

    Args:
        found: what was matched.
        times: how often each picture counts.
        which: of the overlaps.
    """
    truths = int((times * found.truths).sum())
    if not truths:
        return None
    weights = times[found.pictures]
    right = (found.matched[which] * weights).cumsum(axis=1)
    recall = right / truths
    precision = right / np.maximum(weights.cumsum(), 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    values = np.zeros(len(right))
    for row in range(len(right)):
        places = np.searchsorted(recall[row], _RECALLS, side="left")
        values[row] = best[row][places[places < len(weights)]].sum() / len(_RECALLS)
    return values


def _check(boxes: Tensor, classes: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or classes.shape != boxes.shape[:1]:
        raise BadRequest(
            f"boxes of shape {tuple(boxes.shape)} and classes of shape {tuple(classes.shape)} do "
            "not fit; give (n, 4) and (n,)"
        )
    if not torch.isfinite(boxes).all():
        raise MeasurementFailed("boxes are not finite, so nothing is counted; see the detector")
    if (boxes[:, 2:] < 0).any():
        raise BadRequest("boxes have negative sizes; give centre, width and height")
