"""Where the spread of a result comes from: trainings, unlearnings of each, evaluations of each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from efface.contracts import Estimate
from efface.errors import BadRequest, MeasurementFailed

__all__ = ["LEVELS", "VarianceShares", "variance_shares"]

LEVELS = ("training", "unlearning", "evaluation")


@dataclass(frozen=True)
class VarianceShares:
    """Variance of each level of a nested design, and the mean with the error it implies."""

    mean: Estimate
    """Its interval counts the seeds of the topmost level that was repeated."""
    variances: dict[str, float]
    """By level. A level without repeats is missing: its spread is part of the level above."""
    shares: dict[str, float]
    """The same as shares of their sum; all 0 where nothing varies."""
    clipped: tuple[str, ...]
    """Levels whose estimate came out below zero and was set to 0: too few seeds to tell."""
    repeats: dict[str, int]
    """How many seeds each level has per seed of the level above."""


def variance_shares(
    results: Float[Tensor, "trainings unlearnings evaluations"],
) -> VarianceShares:
    """Splits the variance of I x J x K results by nested analysis of variance.

    Mean squares between the means of each level are set equal to their expectations, as in a
    balanced design with random effects. Estimates below zero are set to 0 and named in ``clipped``.

    Args:
        results: one number for each evaluation of each unlearning of each training.

    Raises:
        BadRequest: the shape is not three levels.
        MeasurementFailed: a number is not finite, or no level has two seeds.
    """
    values = _checked(results)
    repeated = [level for level, count in enumerate(values.shape) if count > 1]
    kept = values.squeeze()
    raw = _components(kept)
    names = [LEVELS[level] for level in repeated]
    # A difference that is only rounding is none.
    floor = 1e-12 * float((kept - kept.mean()).square().mean())
    clipped = tuple(name for name, one in zip(names, raw, strict=True) if one < -floor)
    variances = {name: max(0.0, one) for name, one in zip(names, raw, strict=True)}
    total = sum(variances.values())
    shares = {name: one / total if total > 0 else 0.0 for name, one in variances.items()}
    counts = dict(zip(LEVELS, values.shape, strict=True))
    return VarianceShares(_mean(kept), variances, shares, clipped, counts)


def _checked(results: Tensor) -> Float[Tensor, "i j k"]:
    if results.ndim != 3 or not results.numel():
        raise BadRequest(
            f"results have shape {tuple(results.shape)}; give (trainings, unlearnings, evaluations)"
        )
    values = results.detach().to("cpu", torch.float64)
    broken = int((~torch.isfinite(values)).sum())
    if broken:
        raise MeasurementFailed(
            f"{broken} of {values.numel()} results are not finite, so no variance is given; "
            "repeat them or leave their whole training out"
        )
    if max(values.shape) < 2:
        raise MeasurementFailed("there is one result, which has no spread; use two seeds or more")
    return values


def _components(values: Tensor) -> list[float]:
    """Gives the variance of every axis, the outermost first."""
    levels = values.ndim
    squares: list[float] = []
    for level in range(levels):
        inner = tuple(range(level + 1, levels))
        means = values.mean(dim=inner) if inner else values
        centre = means.mean(dim=level, keepdim=True)
        below = math.prod(values.shape[level + 1 :])
        freedom = math.prod(values.shape[:level]) * (values.shape[level] - 1)
        squares.append(below * float((means - centre).square().sum()) / freedom)
    found = []
    for level, square in enumerate(squares):
        lower = squares[level + 1] if level + 1 < levels else 0.0
        found.append((square - lower) / math.prod(values.shape[level + 1 :]))
    return found


def _mean(values: Tensor) -> Estimate:
    tops = values.reshape(len(values), -1).mean(dim=1)
    centre = float(tops.mean())
    error = float(tops.std()) / math.sqrt(len(tops))
    half = error * float(stats.t.ppf(0.975, len(tops) - 1))
    return Estimate(centre, centre - half, centre + half, values.numel())
