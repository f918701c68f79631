"""The pictures of the bundled vision models: icons as they are shipped, in views made when read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from efface.bundled.icon_views import view
from efface.content import content_hash
from efface.errors import BadModel, BadRequest

__all__ = ["IconViews", "Sheet", "Split", "checked_split", "individuals", "nouns", "sheet"]

Split: TypeAlias = Literal["train", "test"]
SIDE = 48
"""Pixels of a view."""
VIEWS = {"train": 16, "test": 4}
"""Views of each picture."""


@dataclass(frozen=True)
class Sheet:
    """Pictures of one size in one file, with a line about each."""

    pictures: UInt8[Tensor, "cells channels h w"]
    cells: tuple[dict[str, Any], ...]


@dataclass(frozen=True, eq=False)
class IconViews:
    """Views of some of a sheet's pictures; see `efface.data.pictures.LabelledPictures`."""

    sheet: Sheet
    which: tuple[int, ...]
    """Cells of the sheet."""
    names: tuple[str, ...]
    """Classes by number."""
    split: Split
    views: int
    """Views of each cell."""

    @cached_property
    def labels(self) -> Int[Tensor, " n"]:
        """The class of each view; those of one picture stand together."""
        known = {name: number for number, name in enumerate(self.names)}
        each = [known[self.sheet.cells[cell]["name"]] for cell in self.which]
        return torch.tensor(each).repeat_interleave(self.views)

    @property
    def makers(self) -> tuple[str, ...]:
        """Who drew the picture of each view, or in which style."""
        return tuple(
            str(self.sheet.cells[cell]["maker"]) for cell in self.which for _ in range(self.views)
        )

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Sixteen hex digits of each view."""
        prints = [content_hash("icon", self.sheet.pictures[cell]) for cell in self.which]
        places = range(len(self))
        return tuple(content_hash(prints[n // self.views], self._number(n)) for n in places)

    @property
    def identity(self) -> str:
        """Sixteen hex digits of all views with their classes' names."""
        from efface.data.pictures import identity_of

        return identity_of(self)

    def __len__(self) -> int:
        """Counts the views."""
        return len(self.which) * self.views

    def read(self, which: Sequence[int]) -> list[Float[Tensor, "3 h w"]]:
        """Makes some views; pixels are 0 to 1."""
        if not which:
            return []
        cells = [self.which[place // self.views] for place in which]
        return list(view(self.sheet.pictures, cells, [self._number(n) for n in which], SIDE))

    def _number(self, place: int) -> int:
        """Numbers a view among all of its picture: even in training, odd in tests."""
        return 2 * (place % self.views) + (self.split == "test")


@lru_cache(maxsize=4)
def sheet(name: str) -> Sheet:
    """Reads one of the shipped sheets.

    Raises:
        BadModel: the package was installed without it.
    """
    folder = Path(str(files("efface.bundled") / "pictures"))
    try:
        facts = json.loads((folder / f"{name}.json").read_text("utf-8"))
        with Image.open(folder / f"{name}.webp") as image:
            canvas = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    except OSError as error:
        raise BadModel(
            f"the bundled pictures of {name} are missing from this installation ({error}); "
            "reinstall efface"
        ) from error
    side, columns = int(facts["side"]), int(facts["columns"])
    tiles = canvas.unfold(1, side, side).unfold(2, side, side)  # (channels, rows, columns, h, w)
    flat = tiles.permute(1, 2, 0, 3, 4).reshape(-1, len(canvas), side, side)
    assert tiles.shape[2] == columns
    return Sheet(flat[: len(facts["cells"])].contiguous(), tuple(facts["cells"]))


def nouns(split: Split, *, views: int | None = None) -> IconViews:
    """Gives the vocabulary's 64 nouns in all eight styles.

    Args:
        split: views for training, or held-out ones.
        views: of each picture; by default those that the bundled model was trained on.
    """
    own = sheet("nouns")
    names = tuple(dict.fromkeys(cell["name"] for cell in own.cells))
    return IconViews(
        own, tuple(range(len(own.cells))), names, checked_split(split), _views(split, views)
    )


def individuals(split: Split, *, strangers: bool = False, views: int | None = None) -> IconViews:
    """Gives icons outside the vocabulary, each an individual that several makers drew.

    Args:
        split: views for training, or held-out ones.
        strangers: those that the bundled model never saw, in place of the 100 of its head.
        views: of each picture; by default those that the bundled model was trained on.
    """
    own = sheet("individuals")
    which = tuple(n for n, cell in enumerate(own.cells) if cell["in_head"] != strangers)
    names = tuple(dict.fromkeys(own.cells[n]["name"] for n in which))
    return IconViews(own, which, names, checked_split(split), _views(split, views))


def checked_split(split: str) -> Split:
    """Gives the part of a name.

    Raises:
        BadRequest: there is no such part.
    """
    for part in get_args(Split):
        if split == part:
            found: Split = part
            return found
    raise BadRequest(f"'{split}' is not a part of the bundled pictures; choose train or test")


def _views(split: str, given: int | None) -> int:
    if given is None:
        return VIEWS[split]
    if given < 1:
        raise BadRequest(f"{given} views of a picture are none; give 1 or more")
    return given
