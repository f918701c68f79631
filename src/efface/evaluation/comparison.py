"""From scores to measurements: each metric in each role, before, after and paired."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from efface.contracts import Better, ImageMetric, Role, Sample, SetMetric
from efface.errors import MeasurementFailed
from efface.evaluation.images import Source
from efface.evaluation.instruments import Instruments
from efface.evaluation.record import Measurement
from efface.evaluation.samples import GOING, ROLES, STAYING, in_role
from efface.evaluation.scoring import Scorer
from efface.memory import translating_out_of_memory
from efface.metrics.estimates import compare_means, compare_rates, mean, rate

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["image_measurements", "set_measurements", "wanted"]

_MOST_CONCEPTS = 40
_SMALLEST_SET = 3


def wanted(metric: ImageMetric, role: Role) -> Better:
    """Gives the direction that is better in a role: what erased prompts draw should go."""
    if not (metric.reverses and role in GOING):
        return metric.better
    return "lower" if metric.better == "higher" else "higher"


def image_measurements(
    scorer: Scorer,
    instruments: Instruments,
    samples: Sequence[Sample],
    sources: Sequence[Source],
) -> list[Measurement]:
    """Estimates every image metric per role, and per concept where a role has several.

    The first source is the unedited model, the second the edited one if there is one.
    """
    found = []
    for metric in instruments.image_metrics:
        measure = instruments.measure(metric)
        for role, concept, group in _groups(metric, samples):
            scores = [scorer.values(measure, source, group) for source in sources]
            found.append(_measurement(metric, role, concept, group, scores))
    return found


def set_measurements(
    scorer: Scorer,
    instruments: Instruments,
    samples: Sequence[Sample],
    sources: Sequence[Source],
) -> list[Measurement]:
    """Measures how far the pictures that must stay have moved, same prompts and seeds."""
    if len(sources) < 2:
        return []
    found = []
    for role in STAYING:
        group = in_role(samples, role)
        if len(group) < _SMALLEST_SET:
            continue
        with translating_out_of_memory():
            before, after = (scorer.store.load(source, group) for source in sources)
        for metric in instruments.set_metrics:
            distance = scorer.guarded(metric.name, partial(_distance, metric, role, after, before))
            if distance is not None:
                found.append(distance)
    return found


def _distance(metric: SetMetric, role: Role, after: Tensor, before: Tensor) -> Measurement:
    distance = metric.distance(after, before)
    if not math.isfinite(distance.value):
        raise MeasurementFailed(f"{metric.name} gave {distance.value} for role {role}")
    return Measurement(
        metric=metric.name,
        unit=metric.unit,
        better=metric.better,
        role=role,
        change=distance,
    )


def _groups(
    metric: ImageMetric, samples: Sequence[Sample]
) -> Iterator[tuple[Role, str | None, tuple[Sample, ...]]]:
    for role in ROLES:
        group = tuple(sample for sample in in_role(samples, role) if metric.applies(sample))
        if not group:
            continue
        yield role, None, group
        names = tuple(dict.fromkeys(one.subject for one in group if one.subject))
        if 1 < len(names) <= _MOST_CONCEPTS:
            for name in names:
                yield role, name, tuple(s for s in group if s.subject == name)


def _measurement(
    metric: ImageMetric,
    role: Role,
    concept: str | None,
    group: Sequence[Sample],
    scores: list[list[float]],
) -> Measurement:
    threshold, prompts = metric.threshold, [sample.prompt for sample in group]
    if threshold is not None:
        scores = [_hits(values, threshold) for values in scores]
    estimate = mean if threshold is None else rate
    compare = compare_means if threshold is None else compare_rates
    estimates = [estimate(values, prompts) for values in scores]
    change = compare(scores[0], scores[1], prompts) if len(scores) > 1 else None
    return Measurement(
        metric=metric.name,
        unit=metric.unit,
        better=wanted(metric, role),
        role=role,
        concept=concept,
        before=estimates[0],
        after=estimates[1] if change else None,
        change=change.difference if change else None,
        p_value=change.p_value if change else None,
    )


def _hits(scores: Sequence[float], threshold: float) -> list[float]:
    return [math.nan if math.isnan(one) else float(one >= threshold) for one in scores]
