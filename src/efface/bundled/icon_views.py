"""Views of icons: each is made from a picture and a number alone, so that none has to be shipped.

A view moves, turns, scales, lights and grains its picture. Even numbers are for training and odd
ones are held out, so that no view is ever both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from efface.randomness import derive

__all__ = ["view"]

_TURN, _SHIFT = math.radians(12), 0.08
_SCALE = (0.9, 1.25)
"""Of the picture's frame: above 1 the thing is smaller than in the picture."""


def view(
    pictures: UInt8[Tensor, "cells 3 h w"], cells: Sequence[int], numbers: Sequence[int], side: int
) -> Float[Tensor, "n 3 side side"]:
    """Makes one view each of some pictures.

    Args:
        pictures: all of a sheet.
        cells: which picture.
        numbers: which view of it.
        side: of the views, in pixels.
    """
    drawn = [_draw(cell, number, side) for cell, number in zip(cells, numbers, strict=True)]
    parameters = torch.stack([numbers for numbers, _ in drawn])
    grain = torch.stack([noise for _, noise in drawn])
    found = pictures[torch.as_tensor(cells)].float() / 255
    grid = functional.affine_grid(
        _placed(parameters[:, :4]), [len(found), 3, side, side], align_corners=False
    )
    moved = functional.grid_sample(found, grid, padding_mode="border", align_corners=False)
    gain = 1 + 0.12 * (parameters[:, 4:7, None, None] - 0.5) * 2
    lift = 0.08 * (parameters[:, 7, None, None, None] - 0.5) * 2
    strength = 0.04 * parameters[:, 8, None, None, None]
    return (moved * gain + lift + strength * grain).clamp(0, 1)


def _draw(
    cell: int, number: int, side: int
) -> tuple[Float[Tensor, " 9"], Float[Tensor, "3 side side"]]:
    generator = derive(number, "icon view", cell)
    return torch.rand(9, generator=generator), torch.randn(3, side, side, generator=generator)


def _placed(parameters: Float[Tensor, "n 4"]) -> Float[Tensor, "n 2 3"]:
    """Writes turn, size and place as affine maps."""
    turn = (2 * parameters[:, 0] - 1) * _TURN
    size = _SCALE[0] + (_SCALE[1] - _SCALE[0]) * parameters[:, 1]
    shift = (2 * parameters[:, 2:4] - 1) * _SHIFT
    cos, sin = size * turn.cos(), size * turn.sin()
    rows = [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    return torch.stack(rows, 1)
