"""Geometry of the page's charts: interval bars in percent of their track, curves as SVG paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from efface.contracts import Estimate
from efface.evaluation.limits import Limits
from efface.evaluation.record import MAIN_METRICS, Evaluation, Measurement
from efface.reports import wording
from efface.reports.model_words import words_for

__all__ = ["Bar", "Block", "Curve", "Line", "blocks", "curves"]


@dataclass(frozen=True)
class Bar:
    """One interval on a track; all positions in percent of its width."""

    start: float
    width: float
    middle: float


@dataclass(frozen=True)
class Line:
    """One row of a metric's table."""

    label: str
    explained: str
    nested: bool
    """Whether it is one concept of the role above."""
    before: str
    before_interval: str
    after: str
    after_interval: str
    change: str
    chance: str
    better: str
    outside: str
    """"still there" or "lost" where a rate is outside the limits."""
    before_bar: Bar | None
    after_bar: Bar | None


@dataclass(frozen=True)
class Block:
    """One metric: its rows, and what its tracks mean."""

    title: str
    name: str
    unit: str
    low: str
    high: str
    paired: bool
    """Whether it has a value before and after; a distance between the two has not."""
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Curve:
    """One line plot in a box of 300 by 80."""

    title: str
    path: str
    first: str
    last: str


def blocks(evaluation: Evaluation) -> tuple[Block, ...]:
    """Lays out every metric in the order of the suite."""
    rows = wording.shown(evaluation)
    metrics = tuple(dict.fromkeys(one.metric for one in rows))
    return tuple(
        _block([one for one in rows if one.metric == metric], evaluation) for metric in metrics
    )


def curves(values: Mapping[str, Sequence[float]]) -> tuple[Curve, ...]:
    """Lays out curves with at least two finite values."""
    finite = {name: [one for one in line if math.isfinite(one)] for name, line in values.items()}
    return tuple(_curve(name, line) for name, line in finite.items() if len(line) > 1)


def _block(rows: Sequence[Measurement], evaluation: Evaluation) -> Block:
    first = rows[0]
    low, high = _range(rows)
    return Block(
        title=wording.named(first.metric),
        name=first.metric,
        unit=f"share of {words_for(evaluation).counted}" if first.unit == "rate" else first.unit,
        low=wording.number(low, first.unit),
        high=wording.number(high, first.unit),
        paired=first.before is not None,
        lines=tuple(_line(row, low, high, evaluation) for row in rows),
    )


def _line(row: Measurement, low: float, high: float, evaluation: Evaluation) -> Line:
    paired = row.before is not None
    distance = row.change if not paired else None
    return Line(
        label=row.concept or wording.ROLES[row.role],
        explained="" if row.concept else words_for(evaluation).role(row.role),
        nested=row.concept is not None,
        before=wording.value(row.before, row.unit),
        before_interval=wording.interval(row.before, row.unit),
        after=wording.value(row.after or distance, row.unit),
        after_interval=wording.interval(row.after or distance, row.unit),
        change=wording.change(row) if paired else "",
        chance=wording.chance(row.p_value),
        better=row.better,
        outside=_outside(row, evaluation.limits),
        before_bar=_bar(row.before, low, high),
        after_bar=_bar(row.after or distance, low, high),
    )


def _outside(row: Measurement, bounds: Limits) -> str:
    rates = (*MAIN_METRICS.values(), "style_presence")
    if row.metric not in rates or wording.within(row, bounds) is not False:
        return ""
    return "still there" if row.better == "lower" else "lost"


def _range(rows: Sequence[Measurement]) -> tuple[float, float]:
    """Rates span 0 to 1; other metrics what their intervals need, from 0 if that is near."""
    if rows[0].unit == "rate":
        return 0.0, 1.0
    shown = [one for row in rows for one in (row.before, row.after)]
    shown += [row.change for row in rows if row.before is None]
    ends = [
        end
        for one in shown
        if one is not None
        for end in (one.low, one.high, one.value)
        if math.isfinite(end)
    ]
    low, high = min(ends), max(ends)
    if low > 0 and (low < high / 2 or rows[0].before is None):
        low = 0.0
    return (low, high) if high - low > wording.ROUNDING else (low - 0.5, high + 0.5)


def _bar(estimate: Estimate | None, low: float, high: float) -> Bar | None:
    if estimate is None or not math.isfinite(estimate.value):
        return None
    ends = [estimate.low, estimate.high]
    if not all(map(math.isfinite, ends)):
        ends = [estimate.value, estimate.value]
    start, stop, middle = (
        min(100.0, max(0.0, 100 * (one - low) / (high - low))) for one in (*ends, estimate.value)
    )
    return Bar(round(start, 2), round(stop - start, 2), round(middle, 2))


def _curve(name: str, line: Sequence[float]) -> Curve:
    low, high = min(line), max(line)
    height = high - low or 1.0
    points = (
        f"{4 + 292 * place / (len(line) - 1):.1f},{76 - 72 * (one - low) / height:.1f}"
        for place, one in enumerate(line)
    )
    path = "M" + " L".join(points)
    stage, colon, figure = name.rpartition(": ")  # methods in turn keep their names
    title = stage + colon + figure.replace("_", " ")
    return Curve(title, path, f"{line[0]:.4g}", f"{line[-1]:.4g}")
