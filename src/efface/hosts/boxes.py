"""Boxes in pictures: corners, how far two overlap, and how far apart they are where they do not.

Boxes are centre and size (x, y, width, height) as shares of a picture's width and height.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["as_corners", "as_sizes", "generalised_overlaps", "overlaps"]


def as_corners(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Writes boxes as (left, top, right, bottom)."""
    centres, halves = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centres - halves, centres + halves], dim=-1)


def as_sizes(corners: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Writes (left, top, right, bottom) as centre and size."""
    first, last = corners[..., :2], corners[..., 2:]
    return torch.cat([(first + last) / 2, last - first], dim=-1)


def overlaps(first: Float[Tensor, "n 4"], second: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Gives the intersection over union of each box with each other; 0 where both are empty."""
    common, union, _ = _areas(first, second)
    return common / union.clamp_min(torch.finfo(union.dtype).tiny)


def generalised_overlaps(
    first: Float[Tensor, "n 4"], second: Float[Tensor, "m 4"]
) -> Float[Tensor, "n m"]:
    """Gives the generalised intersection over union (arXiv 1902.09630), -1 to 1.

    Boxes that do not overlap count by the empty share of the smallest box around both.
    """
    common, union, around = _areas(first, second)
    tiny = torch.finfo(union.dtype).tiny
    return common / union.clamp_min(tiny) - (around - union) / around.clamp_min(tiny)


def _areas(
    first: Float[Tensor, "n 4"], second: Float[Tensor, "m 4"]
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """Gives the areas of intersections, of unions, and of the smallest boxes around both."""
    one, two = as_corners(first)[:, None], as_corners(second)[None]
    sides = torch.minimum(one, two)[..., 2:] - torch.maximum(one, two)[..., :2]
    common = sides.clamp_min(0).prod(dim=-1)
    union = first[:, 2:].prod(dim=-1)[:, None] + second[:, 2:].prod(dim=-1)[None] - common
    outer = torch.maximum(one, two)[..., 2:] - torch.minimum(one, two)[..., :2]
    return common, union, outer.prod(dim=-1)
