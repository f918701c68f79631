"""Where a word's thing is: maps made 0 or 1, and layouts that a user gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from efface.errors import BadRequest

__all__ = ["MASK_LEVELS", "MaskRule", "binarised", "layout_masks"]

MaskRule: TypeAlias = Literal["half", "otsu", "mean_std", "top"]
"""Which pixels are a thing's: ``half``: those with at least a share of the map's peak; ``otsu``:
those above the threshold that parts a map best in two; ``mean_std``: those so many standard
deviations above the map's mean; ``top``: a share of all pixels, the highest."""

MASK_LEVELS: dict[MaskRule, float] = {"half": 0.5, "otsu": 0.0, "mean_std": 1.0, "top": 0.2}
"""The level of each rule where none is given: share of the peak, deviations, share of pixels."""


def binarised(
    maps: Float[Tensor, "*batch height width"], rule: MaskRule, level: float
) -> Float[Tensor, "*batch height width"]:
    """Gives 1 where a map is high and 0 elsewhere, without gradients; the peak is always in."""
    flat = maps.detach().flatten(-2)
    peak = flat.amax(dim=-1, keepdim=True)
    if rule == "half":
        threshold = level * peak
    elif rule == "mean_std":
        deviation = flat.std(dim=-1, correction=0, keepdim=True)
        threshold = flat.mean(dim=-1, keepdim=True) + level * deviation
    elif rule == "top":
        count = max(1, math.ceil(level * flat.shape[-1]))
        threshold = flat.topk(count, dim=-1).values[..., -1:]
    else:
        threshold = _otsu(flat)
    return (flat >= threshold.minimum(peak)).to(maps.dtype).view_as(maps)


def _otsu(flat: Float[Tensor, "*batch pixels"]) -> Float[Tensor, "*batch 1"]:
    """Gives the value from which on pixels differ most from those below (Otsu, 1979)."""
    values = flat.cpu().sort(dim=-1).values.double()
    count = values.shape[-1]
    below = torch.arange(1, count, dtype=torch.float64)
    sums = values.cumsum(dim=-1)
    low = sums[..., :-1] / below
    high = (sums[..., -1:] - sums[..., :-1]) / (count - below)
    between = below * (count - below) * (high - low).square()
    # Pixels of one value are never parted.
    between = between.masked_fill(values[..., 1:] == values[..., :-1], -1.0)
    cut = between.argmax(dim=-1, keepdim=True) + 1
    return values.gather(-1, cut).to(flat)


def layout_masks(
    layouts: Sequence[str], *, size: tuple[int, int], picture: tuple[int, int]
) -> dict[str, Float[Tensor, "height width"]]:
    """Reads where words' things must be, as masks of 0 and 1 of the maps' size.

    Args:
        layouts: ``word=left,top,right,bottom`` in shares of the picture, from its upper left
            corner; or ``word=file.png``, a picture of the same size, white where the thing must be.
        size: height and width of the maps.
        picture: height and width of the picture in pixels.

    Raises:
        BadRequest: a layout cannot be read, is of another size or off the picture, or names a word
            twice.
    """
    found: dict[str, Tensor] = {}
    for text in layouts:
        word, _, place = (each.strip() for each in text.partition("="))
        if not word or not place:
            raise BadRequest(
                f"the layout '{text}' is not read; write word=left,top,right,bottom in shares of "
                "the picture, or word=mask.png"
            )
        if word in found:
            raise BadRequest(f"the layouts name '{word}' twice; give each word one layout")
        covered = _box(text, place, size) if "," in place else _painted(text, place, size, picture)
        found[word] = (covered >= 0.5).float()
        if not found[word].any():
            raise BadRequest(
                f"the layout '{text}' covers half of no pixel of the {size[0]} x {size[1]} maps; "
                "make it larger"
            )
    return found


def _box(text: str, place: str, size: tuple[int, int]) -> Float[Tensor, "height width"]:
    """Gives the share of each of the maps' pixels that a box covers."""
    try:
        left, top, right, bottom = (float(each) for each in place.split(","))
    except ValueError:
        raise BadRequest(
            f"the layout '{text}' has no four numbers; write word=left,top,right,bottom, such as "
            "cat=0,0,0.5,1"
        ) from None
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadRequest(
            f"the layout '{text}' is off the picture or empty; left and right, top and bottom are "
            "shares from 0 to 1, the smaller first"
        )
    return torch.outer(_covered(top, bottom, size[0]), _covered(left, right, size[1]))


def _covered(start: float, stop: float, count: int) -> Float[Tensor, " count"]:
    edges = torch.arange(count + 1, dtype=torch.float64)
    shares = edges[1:].clamp(max=stop * count) - edges[:-1].clamp(min=start * count)
    return shares.clamp(min=0)


def _painted(
    text: str, file: str, size: tuple[int, int], picture: tuple[int, int]
) -> Float[Tensor, "height width"]:
    try:
        with Image.open(Path(file)) as opened:
            levels = np.asarray(opened.convert("L"), dtype=np.float32) / 255
    except OSError as error:
        raise BadRequest(
            f"the mask of the layout '{text}' cannot be read ({error}); give a picture file"
        ) from error
    if levels.shape != picture:
        raise BadRequest(
            f"the mask of the layout '{text}' is {levels.shape[0]} x {levels.shape[1]} and the "
            f"picture {picture[0]} x {picture[1]} pixels; draw it at the picture's size"
        )
    shares = functional.adaptive_avg_pool2d(torch.from_numpy(levels > 0.5)[None].float(), size)
    return shares[0]
