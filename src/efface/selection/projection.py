"""Selections between 0 and 1 with a fixed sum: the nearest one, the best vertex, and draws."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.errors import BadRequest

__all__ = ["check_size", "drawn_set", "projected", "smallest"]


def projected(point: Float[Tensor, " n"], total: float | int) -> Float[Tensor, " n"]:
    """Gives the nearest point of ``{w in [0, 1]^n, sum w = total}``, in float64.

    It is ``clip(point - mu, 0, 1)``, whose sum falls piecewise linearly with mu. All corners of
    that line are sorted, the segment with the wanted sum is found from prefix sums, and mu is read
    off it; there is no tolerance, and no bisection.

    Raises:
        BadRequest: the total is not between 0 and n, or an entry of the point is not finite.
    """
    check_size(total, len(point))
    if not bool(point.isfinite().all()):
        raise BadRequest("losses that are not finite cannot be ranked; see why a loss is not")
    given = point.double()
    centred = given - given.median()  # The answer ignores shifts, and rounding grows with size.
    corners = torch.cat([centred, centred - 1]).sort().values
    sums = _sum_above(centred, corners)
    place = max(0, int((sums >= total).sum()) - 1)  # Sums fall from n at the first corner to 0.
    left = corners[place]
    inside = int(((centred > left) & (centred - 1 <= left)).sum())
    mu = left + (sums[place] - total) / inside if inside else left
    return _exact(centred, mu, total)


def _exact(point: Float[Tensor, " n"], mu: Tensor, total: float | int) -> Float[Tensor, " n"]:
    """Takes the rounding of long prefix sums out of mu, by a step of Newton's where it is exact."""
    found = (point - mu).clamp(0, 1)
    inside = int(((found > 0) & (found < 1)).sum())
    if not inside:
        return found
    return (point - (mu + (found.sum() - total) / inside)).clamp(0, 1)


def check_size(total: float | int, count: int) -> None:
    """Refuses sets of fewer than none or of more than all.

    Raises:
        BadRequest: it is one.
    """
    if not 0 <= total <= count:
        raise BadRequest(
            f"a set of {total:g} of {count} candidates was asked for; give 0 to {count}"
        )


def _sum_above(point: Float[Tensor, " n"], levels: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Gives the sum of ``clip(point - level, 0, 1)`` for every level."""
    ordered = point.sort().values
    prefix = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    count = len(ordered)
    zeros = torch.searchsorted(ordered, levels, right=True)
    ones = torch.searchsorted(ordered, levels + 1, right=True)
    between = prefix[ones] - prefix[zeros] - (ones - zeros) * levels
    return between + (count - ones)


def smallest(losses: Float[Tensor, " n"], count: int) -> Int[Tensor, " m"]:
    """Lists the candidates with the smallest losses, smallest first; the earlier of equal ones."""
    check_size(count, len(losses))
    return losses.argsort(stable=True)[:count]


def drawn_set(weights: Float[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " m"]:
    """Draws a set in which each candidate is with the chance that is its weight.

    Systematic sampling in a random order, so that the set's size is the sum of the weights, which
    must be whole. What weighs 1 is always in it and what weighs 0 never.
    """
    size = round(float(weights.sum()))
    order = torch.randperm(len(weights), generator=generator)
    ends = weights.double()[order].cumsum(0)
    ends = ends * (size / ends[-1]) if size else ends
    offset = torch.rand(1, generator=generator, dtype=torch.float64)
    marks = torch.arange(size, dtype=torch.float64) + offset.clamp(1e-9, 1 - 1e-9)
    places = torch.searchsorted(ends, marks).clamp(max=len(weights) - 1)
    return order[places].sort().values
