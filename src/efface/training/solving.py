"""Conjugate gradients on lists of tensors, for matrices that are known by their products alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface.errors import ModelCollapsed
from efface.memory import wide

__all__ = ["Solution", "conjugate_gradients"]


class Solution(NamedTuple):
    """What was found, and how well it solves the system."""

    found: list[Tensor]
    residual: float
    """Length of what is left, over the right side's."""
    iterations: int


def conjugate_gradients(
    matrix: Callable[[list[Tensor]], list[Tensor]],
    wanted: Sequence[Tensor],
    *,
    iterations: int,
    tolerance: float,
) -> Solution:
    """Solves ``M x = wanted`` for a symmetric positive definite M.

    Args:
        matrix: gives M x.
        wanted: the right side.
        iterations: at most so many products.
        tolerance: relative residual at which to stop.

    Raises:
        ModelCollapsed: a product is not finite.
    """
    found = [torch.zeros_like(each) for each in wanted]
    left, direction = list(wanted), list(wanted)
    size = start = _dot(left, left)
    done = 0
    while done < iterations and size > tolerance**2 * start:
        product = matrix(direction)
        along = _dot(direction, product)
        if not 0 < along < float("inf"):
            raise ModelCollapsed(
                f"the curvature along a direction is {along:.3g}, so nothing can be solved; raise "
                "damping"
            )
        step = size / along
        found = [one + step * two for one, two in zip(found, direction, strict=True)]
        left = [one - step * two for one, two in zip(left, product, strict=True)]
        longer = _dot(left, left)
        direction = [one + longer / size * two for one, two in zip(left, direction, strict=True)]
        size = longer
        done += 1
    return Solution(found, (size / start) ** 0.5 if start else 0.0, done)


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    pairs = zip(first, second, strict=True)
    return float(sum((wide(one) * wide(two)).sum() for one, two in pairs))
