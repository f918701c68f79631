"""Scenes of icons: each is made from a number alone, so that none has to be shipped.

A scene shows one to five icons on a plain or textured ground. Scenes for training and held-out ones
have other numbers and other textures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from efface.bundled.icon_sets import Sheet, Split, checked_split, sheet
from efface.content import content_hash
from efface.data.scenes import Annotated, Scene, scene_identity
from efface.errors import BadRequest
from efface.hosts.boxes import overlaps
from efface.randomness import derive

__all__ = ["COUNTS", "SIDE", "IconScenes", "scenes"]

SIDE = 96
"""Pixels of a scene."""
COUNTS = {"train": 3000, "test": 400}
"""Scenes of each part."""
_MOST = 5
_SIZES = (22, 44)
"""Pixels of an icon's frame."""
_COVERED = 0.1
"""Overlap up to which two icons may share a place."""
_TRIES = 12
_TEXTURES = {"train": ("plain", "stripes", "checks", "clouds"), "test": ("plain", "dots", "rings")}


class _Placed(NamedTuple):
    """An icon in a scene, in pixels."""

    cell: int
    left: int
    top: int
    size: int
    turned: bool
    """Whether left and right are exchanged."""


@dataclass(frozen=True, eq=False)
class IconScenes:
    """Scenes of one part; see `efface.data.scenes.ScenePictures`."""

    sheet: Sheet
    names: tuple[str, ...]
    """Classes by number."""
    split: Split
    count: int

    @cached_property
    def things(self) -> tuple[Annotated, ...]:
        """What is in each scene, without drawing it."""
        return tuple(self._annotated(self._layout(number)) for number in range(self.count))

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Sixteen hex digits of each scene."""
        pictures = content_hash("icons", self.sheet.pictures)
        return tuple(content_hash(pictures, self.split, number) for number in range(self.count))

    @cached_property
    def identity(self) -> str:
        """Sixteen hex digits of all scenes with what is in them and the classes' names."""
        return scene_identity(self)

    def __len__(self) -> int:
        """Counts the scenes."""
        return self.count

    def scenes(self, which: Sequence[int]) -> list[Scene]:
        """Draws some scenes."""
        return [self._scene(number) for number in which]

    @cached_property
    def _frames(self) -> list[list[float]]:
        """Gives left, top, right and bottom of what is opaque in each cell, as shares."""
        opaque = self.sheet.pictures[:, 3] > 127
        across, down = opaque.any(1), opaque.any(2)
        edges = [_ends(across)[0], _ends(down)[0], _ends(across)[1], _ends(down)[1]]
        found: list[list[float]] = (torch.stack(edges, 1) / opaque.shape[-1]).tolist()
        return found

    def _generator(self, number: int, purpose: str) -> torch.Generator:
        return derive(number, "icon scene", self.split, purpose)

    def _layout(self, number: int) -> list[_Placed]:
        """Places icons one after the other where there is room."""
        generator = self._generator(number, "layout")
        wanted = _whole(1, _MOST + 1, generator)
        placed: list[_Placed] = []
        for _ in range(_TRIES):
            if len(placed) == wanted:
                break
            size = _whole(*_SIZES, generator)
            each = _Placed(
                _whole(0, len(self.sheet.cells), generator),
                _whole(0, SIDE - size + 1, generator),
                _whole(0, SIDE - size + 1, generator),
                size,
                bool(_whole(0, 2, generator)),
            )
            if self._has_room(each, placed):
                placed.append(each)
        return placed

    def _has_room(self, each: _Placed, placed: Sequence[_Placed]) -> bool:
        if not placed:
            return True
        boxes = torch.tensor([self._box(other) for other in placed])
        return float(overlaps(torch.tensor([self._box(each)]), boxes).max()) <= _COVERED

    def _box(self, each: _Placed) -> tuple[float, float, float, float]:
        """Gives centre and size as shares of the scene."""
        left, top, right, bottom = self._frames[each.cell]
        if each.turned:
            left, right = 1 - right, 1 - left
        across, down = (left + right) / 2, (top + bottom) / 2
        share = each.size / SIDE
        centre = each.left / SIDE + across * share, each.top / SIDE + down * share
        return *centre, (right - left) * share, (bottom - top) * share

    def _annotated(self, layout: Sequence[_Placed]) -> Annotated:
        known = {name: number for number, name in enumerate(self.names)}
        classes = [known[self.sheet.cells[each.cell]["name"]] for each in layout]
        return Annotated(torch.tensor([self._box(one) for one in layout]), torch.tensor(classes))

    def _scene(self, number: int) -> Scene:
        generator = self._generator(number, "ground")
        kinds = _TEXTURES[self.split]
        canvas = _ground(kinds[_whole(0, len(kinds), generator)], generator)
        layout = self._layout(number)
        for each in layout:
            icon = self.sheet.pictures[each.cell].float() / 255
            icon = torch.cat([icon[:3] * icon[3:], icon[3:]])
            drawn = functional.interpolate(
                icon[None], size=(each.size, each.size), mode="bilinear", antialias=True
            )[0]
            drawn = drawn.flip(-1) if each.turned else drawn
            rows = slice(each.top, each.top + each.size)
            columns = slice(each.left, each.left + each.size)
            canvas[:, rows, columns] = drawn[:3] + (1 - drawn[3:]) * canvas[:, rows, columns]
        grain = 0.02 * torch.randn(3, SIDE, SIDE, generator=generator)
        return Scene((canvas + grain).clamp(0, 1), *self._annotated(layout))


@lru_cache(maxsize=4)
def scenes(split: Split, *, count: int | None = None) -> IconScenes:
    """Gives scenes of sixteen things as five makers draw them.

    Args:
        split: scenes for training, or held-out ones.
        count: how many, from the first; by default those of the bundled detector.

    Raises:
        BadRequest: there is no such part, or no scene is asked for.
    """
    part = checked_split(split)
    if count is not None and count < 1:
        raise BadRequest(f"{count} scenes are none; give 1 or more")
    own = sheet("things")
    names = tuple(dict.fromkeys(cell["name"] for cell in own.cells))
    return IconScenes(own, names, part, COUNTS[part] if count is None else count)


def _ends(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Gives the first place that is set in each row, and the place after the last."""
    places = torch.arange(rows.shape[1])
    first = torch.where(rows, places, rows.shape[1]).min(1).values
    return first, torch.where(rows, places + 1, 0).max(1).values


def _whole(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high, (), generator=generator))


def _ground(kind: str, generator: torch.Generator) -> Float[Tensor, "3 h w"]:
    """Draws a ground of two colours, mixed by a texture."""
    first, second = torch.rand(2, 3, 1, 1, generator=generator)
    second = first + 0.5 * (second - first)
    mixed: Tensor = first + (second - first) * _texture(kind, generator)
    return mixed


def _texture(kind: str, generator: torch.Generator) -> Float[Tensor, "h w"]:
    """Gives the share of the second colour at each pixel."""
    turn, wide, *phases = torch.rand(4, generator=generator).tolist()
    lines = torch.arange(SIDE, dtype=torch.float32)
    down, across = torch.meshgrid(lines, lines, indexing="ij")
    angle, period = turn * math.pi, 6 + 12 * wide
    along = (across * math.cos(angle) + down * math.sin(angle)) / period + phases[0]
    beside = (down * math.cos(angle) - across * math.sin(angle)) / period + phases[1]
    share = torch.zeros(SIDE, SIDE)
    if kind == "stripes":
        share = (2 * math.pi * along).sin().mul(4).sigmoid()
    elif kind == "checks":
        share = (along.floor() + beside.floor()).remainder(2)
    elif kind == "clouds":
        coarse = torch.rand(1, 1, 7, 7, generator=generator)
        share = functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")[0, 0].clamp(0, 1)
    elif kind == "dots":
        far = (along.remainder(1) - 0.5) ** 2 + (beside.remainder(1) - 0.5) ** 2
        share = (far < 0.06).float()
    elif kind == "rings":
        far = ((across - SIDE * phases[0]) ** 2 + (down - SIDE * phases[1]) ** 2).sqrt()
        share = (2 * math.pi * far / period).sin().mul(4).sigmoid()
    return share
