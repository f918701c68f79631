"""Rates, means and paired differences with intervals; never a bare number.

All intervals cover 95 %. Scores of one prompt under several seeds are not independent, so every
function takes ``groups`` (usually the prompts) and widens its interval accordingly.
NaN means "not scored": such values are left out, and `unscored` counts them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from efface.contracts import Estimate
from efface.errors import MeasurementFailed

__all__ = [
    "UNKNOWN",
    "Comparison",
    "compare_means",
    "compare_rates",
    "corrected_rate",
    "is_known",
    "mean",
    "rate",
    "unscored",
    "wilson",
    "zero_hits_note",
]

UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0)
"""Nobody measured it. Said as such, never replaced by a guess."""

Groups = Sequence[Hashable] | None
_Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """What changed between two measurements of the same samples."""

    difference: Estimate
    """After minus before, over samples that both scored."""
    p_value: float
    """Chance of a difference at least this large if nothing had changed; two-sided."""
    gained: int
    """Samples that scored higher after (for rates: hits that were misses)."""
    lost: int
    """Samples that scored lower after (for rates: misses that were hits)."""


def is_known(estimate: Estimate) -> bool:
    """Says whether anything was measured."""
    return estimate.count > 0 and math.isfinite(estimate.value)


def unscored(values: Sequence[float]) -> int:
    """Counts NaN."""
    return int(np.isnan(np.asarray(values, dtype=np.float64)).sum())


def wilson(proportion: float, count: float) -> tuple[float, float]:
    """Gives Wilson's interval of a proportion; ``count`` may be an effective sample size.

    E. B. Wilson, JASA 22 (1927) 209-212, without continuity correction.
    """
    z = float(stats.norm.ppf(0.975))
    shrink = 1 + z * z / count
    centre = (proportion + z * z / (2 * count)) / shrink
    spread = proportion * (1 - proportion) / count + z * z / (4 * count * count)
    half = z / shrink * math.sqrt(spread)
    low = 0.0 if proportion == 0 else max(0.0, centre - half)
    high = 1.0 if proportion == 1 else min(1.0, centre + half)
    return low, high


def rate(hits: Sequence[float], groups: Groups = None) -> Estimate:
    """Estimates how often something happens, with Wilson's interval.

    With ``groups`` the interval uses the effective sample size ``count / design effect``, where
    the design effect compares the variance between groups with that of independent draws. It is
    kept between the number of groups and ``count``. Rates of exactly 0 or 1 show no variance, so
    they use ``count``; so does a single group, whose interval then speaks of that group only.

    Args:
        hits: one 0, 1 or NaN per sample.
        groups: what each sample belongs to; None: all samples are independent.

    Raises:
        MeasurementFailed: nothing was scored.
    """
    scored, members = _scored(hits, groups)
    value = float(scored.mean())
    low, high = wilson(value, _effective_count(scored, members))
    return Estimate(value, low, high, len(scored), int(scored.sum()))


def mean(values: Sequence[float], groups: Groups = None) -> Estimate:
    """Estimates a mean with a t interval whose standard error is robust to groups.

    A single group gives no interval: ``low`` and ``high`` are NaN.

    Raises:
        MeasurementFailed: nothing was scored.
    """
    scored, members = _scored(values, groups)
    centre = float(scored.mean())
    if len(set(members)) < 2:
        return Estimate(centre, math.nan, math.nan, len(scored))
    half = _standard_error(scored, members) * _t_quantile(members)
    return Estimate(centre, centre - half, centre + half, len(scored))


def compare_rates(
    before: Sequence[float], after: Sequence[float], groups: Groups = None
) -> Comparison:
    """Compares two rates on the same samples.

    The interval is R. G. Newcombe's "square and add" for paired proportions (Statistics in
    Medicine 17 (1998) 2635-2650, method 10), which has a width even when no sample changed; it is
    built from the two (possibly group-widened) Wilson intervals. The p-value is McNemar's exact
    test, which counts samples as independent.

    Raises:
        MeasurementFailed: no sample was scored both before and after.
    """
    first, second, members = _paired(before, after, groups)
    gained = int(((second == 1) & (first == 0)).sum())
    lost = int(((second == 0) & (first == 1)).sum())
    changed = gained + lost
    p_value = float(stats.binomtest(gained, changed, 0.5).pvalue) if changed else 1.0
    low, high = _newcombe(first, second, members)
    value = float(second.mean() - first.mean())
    return Comparison(Estimate(value, low, high, len(first)), p_value, gained, lost)


def compare_means(
    before: Sequence[float], after: Sequence[float], groups: Groups = None
) -> Comparison:
    """Compares two means on the same samples by their differences (t interval and t test).

    Raises:
        MeasurementFailed: no sample was scored both before and after.
    """
    first, second, members = _paired(before, after, groups)
    change = second - first
    estimate = mean(list(change), members)
    p_value = math.nan
    if math.isfinite(estimate.low):
        error = _standard_error(change, members)
        freedom = len(set(members)) - 1
        scaled = abs(estimate.value) / error if error > 0 else math.inf
        p_value = 1.0 if estimate.value == 0 else float(2 * stats.t.sf(scaled, freedom))
    return Comparison(estimate, p_value, int((change > 0).sum()), int((change < 0).sum()))


def corrected_rate(
    observed: Estimate, *, true_positive_rate: Estimate, false_positive_rate: Estimate
) -> float | None:
    """Removes a judge's known errors from an observed rate; None when they are not known.

    W. J. Rogan and B. Gladen, Am. J. Epidemiology 107 (1978) 71-76: the observed rate minus the
    false positive rate, over the true positive rate minus the false positive rate, kept within
    0 to 1. None also when the judge is no better than chance.
    """
    if not (is_known(true_positive_rate) and is_known(false_positive_rate)):
        return None
    power = true_positive_rate.value - false_positive_rate.value
    if power <= 0:
        return None
    return min(1.0, max(0.0, (observed.value - false_positive_rate.value) / power))


def zero_hits_note(estimate: Estimate) -> str | None:
    """Says in words what "never seen" means: the rule of three. None when there were hits."""
    if estimate.hits != 0 or estimate.count == 0:
        return None
    percent = 100 * min(1.0, 3 / estimate.count)
    return (
        f"0 of {estimate.count} does not mean never: the true rate may be up to "
        f"{percent:.1f} % (rule of three, 95 %)"
    )


def _scored(values: Sequence[float], groups: Groups) -> tuple[_Scores, list[Hashable]]:
    array = np.asarray(values, dtype=np.float64)
    members = list(range(len(array))) if groups is None else list(groups)
    if len(members) != len(array):
        raise ValueError(f"{len(array)} scores but {len(members)} groups")
    there = ~np.isnan(array)
    if not there.any():
        raise MeasurementFailed(
            f"none of {len(array)} samples was scored, so there is no number; see why the judge or "
            "metric gave nothing"
        )
    return array[there], [one for one, is_there in zip(members, there, strict=True) if is_there]


def _paired(
    before: Sequence[float], after: Sequence[float], groups: Groups
) -> tuple[_Scores, _Scores, list[Hashable]]:
    first = np.asarray(before, dtype=np.float64)
    second = np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} samples before but {len(second)} after; pair them")
    both = np.where(np.isnan(first) | np.isnan(second), np.nan, first)
    kept_first, members = _scored(list(both), groups)
    return kept_first, second[~np.isnan(both)], members


def _sums(values: _Scores, members: list[Hashable]) -> _Scores:
    """Adds up the deviations from the mean within each group."""
    places = {group: place for place, group in enumerate(dict.fromkeys(members))}
    indices = [places[group] for group in members]
    totals = np.zeros(len(places), dtype=np.float64)
    np.add.at(totals, indices, values - values.mean())
    return totals


def _standard_error(values: _Scores, members: list[Hashable]) -> float:
    """Gives the error of a mean from the spread of group totals (s / sqrt n without groups)."""
    totals = _sums(values, members)
    groups = len(totals)
    return math.sqrt(groups / (groups - 1) * float((totals**2).sum())) / len(values)


def _t_quantile(members: list[Hashable]) -> float:
    return float(stats.t.ppf(0.975, len(set(members)) - 1))


def _effective_count(hits: _Scores, members: list[Hashable]) -> float:
    count, value, groups = len(hits), float(hits.mean()), len(set(members))
    independent = value * (1 - value) / count
    if independent == 0 or groups in (1, count):
        return float(count)
    design_effect = max(1.0, _standard_error(hits, members) ** 2 / independent)
    return max(float(groups), count / design_effect)


def _newcombe(first: _Scores, second: _Scores, members: list[Hashable]) -> tuple[float, float]:
    before, after = float(first.mean()), float(second.mean())
    low_before, high_before = wilson(before, _effective_count(first, members))
    low_after, high_after = wilson(after, _effective_count(second, members))
    varies = first.std() > 0 and second.std() > 0
    alike = float(np.corrcoef(first, second)[0, 1]) if varies else 0.0
    down, up = after - low_after, high_before - before
    below = math.sqrt(max(0.0, down**2 + up**2 - 2 * alike * down * up))
    up, down = high_after - after, before - low_before
    above = math.sqrt(max(0.0, up**2 + down**2 - 2 * alike * up * down))
    value = after - before
    return max(-1.0, value - below), min(1.0, value + above)
