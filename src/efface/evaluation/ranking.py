"""Two sets of scores against each other: AUC and the true positive rate at a false positive rate.

Both are exact: every score is a threshold, and scores that are equal fall on the same side of it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy import optimize, stats
from torch import Tensor

from efface.contracts import Estimate
from efface.errors import BadRequest
from efface.evaluation.answers import finite_scores
from efface.metrics.estimates import rate

__all__ = ["OperatingPoint", "area", "auc", "auc_interval", "operating_point"]


@dataclass(frozen=True)
class OperatingPoint:
    """The lowest threshold that keeps false positives within a limit, and what it lets through."""

    threshold: float
    """Scores at or above it count as positive; infinite where nothing may."""
    true_positives: Estimate
    false_positives: Estimate
    """At most the limit; below it where there are too few negatives, or ties."""


def area(positives: Float[Tensor, " n"], negatives: Float[Tensor, " m"]) -> float:
    """Gives the chance that a positive scores above a negative, ties counting half."""
    first = finite_scores(positives, "scores of positives")
    second = finite_scores(negatives, "scores of negatives").sort().values
    below = torch.searchsorted(second, first, right=False)
    up_to = torch.searchsorted(second, first, right=True)
    return float((below + up_to).double().sum() / (2 * len(first) * len(second)))


def auc(
    positives: Float[Tensor, " n"],
    negatives: Float[Tensor, " m"],
    independent: tuple[int, int] | None = None,
) -> Estimate:
    """Estimates the area under the ROC curve, with Newcombe's interval.

    Args:
        positives: scores that should be high.
        negatives: scores that should be low.
        independent: how many of either are independent, where scores share pictures; None: all.
    """
    value = area(positives, negatives)
    sizes = independent or (len(positives), len(negatives))
    low, high = auc_interval(value, *sizes)
    return Estimate(value, low, high, len(positives) + len(negatives))


def auc_interval(value: float, positives: int, negatives: int) -> tuple[float, float]:
    """Gives a 95 % interval of an AUC that has a width also at 0 and 1.

    R. G. Newcombe, Statistics in Medicine 25 (2006) 559-573, method 5 [recalled]: all areas whose
    own variance, by Hanley and McNeil's formula with both sizes averaged, reaches ``value``.
    """
    if min(positives, negatives) < 1:
        raise BadRequest(f"{positives} positives and {negatives} negatives give no interval")
    z = float(stats.norm.ppf(0.975))
    size = (positives + negatives) / 2 - 1

    def excess(centre: float) -> float:
        spread = 1 + size * ((1 - centre) / (2 - centre) + centre / (1 + centre))
        variance = centre * (1 - centre) * spread / (positives * negatives)
        return (centre - value) ** 2 - z * z * variance

    def bound(end: float) -> float:
        inner = value + (1e-12 if end == 1 else -1e-12)
        if not 0 < inner < 1 or excess(inner) >= 0:
            return value
        return float(optimize.brentq(excess, inner, end - 1e-15 if end == 1 else 1e-15))

    low = 0.0 if value == 0 else bound(0)
    high = 1.0 if value == 1 else bound(1)
    return low, high


def operating_point(
    positives: Float[Tensor, " n"],
    negatives: Float[Tensor, " m"],
    *,
    false_positive_rate: float,
    groups: tuple[Sequence[Hashable] | None, Sequence[Hashable] | None] = (None, None),
) -> OperatingPoint:
    """Finds the lowest threshold whose share of false positives is within a limit.

    With fewer negatives than one over the limit no false positive is allowed at all.

    Args:
        positives: scores that should be high.
        negatives: scores that should be low.
        false_positive_rate: the limit, 0 up to 1.
        groups: what each positive and each negative belongs to.

    Raises:
        BadRequest: the limit is not a share.
    """
    if not 0 <= false_positive_rate < 1:
        raise BadRequest(
            f"a false positive rate of {false_positive_rate} was asked for; give 0 up to 1"
        )
    first = finite_scores(positives, "scores of positives")
    second = finite_scores(negatives, "scores of negatives")
    threshold = _threshold(first, second, false_positive_rate)
    return OperatingPoint(
        threshold,
        rate((first >= threshold).double().tolist(), groups[0]),
        rate((second >= threshold).double().tolist(), groups[1]),
    )


def _threshold(first: Tensor, second: Tensor, limit: float) -> float:
    """Gives the lowest score that at most the allowed number of negatives reach."""
    allowed = math.floor(limit * len(second) + 1e-9)
    scores = torch.cat([first, second]).unique()
    reaching = len(second) - torch.searchsorted(second.sort().values, scores, right=False)
    within = scores[reaching <= allowed]
    return float(within[0]) if len(within) else math.inf
