"""COCO's JSON: pictures in a folder, and one file that says what is where in them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from efface.data.scenes import Annotated, Scene, scene_identity
from efface.errors import BadRequest, MissingInput
from efface.files import read_json_object
from efface.picture_files import open_rgb

__all__ = ["CocoScenes", "coco"]

_PARTS = ("images", "annotations", "categories")
_BEYOND = 1.0
"""Pixels by which a box may reach over its picture's edge, as rounding does."""


@dataclass(frozen=True, eq=False)
class CocoScenes:
    """Picture files with boxes; see `efface.data.scenes.ScenePictures`.

    Crowds (``iscrowd``) are not among the things: their box is of many.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    """Width and height of each file as the JSON has them."""
    things: tuple[Annotated, ...]
    crowds: int
    """How many annotations were left out as crowds."""

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """See `ScenePictures`; reads every file once, and keeps none."""
        return tuple(_digest(file) for file in self.files)

    @cached_property
    def identity(self) -> str:
        """See `ScenePictures`."""
        return scene_identity(self)

    def __len__(self) -> int:
        """Counts the pictures."""
        return len(self.files)

    def scenes(self, which: Sequence[int]) -> list[Scene]:
        """See `ScenePictures`.

        Raises:
            BadRequest: a file cannot be read, or has another size than the JSON says.
        """
        return [Scene(self._pixels(place), *self.things[place]) for place in which]

    def _pixels(self, place: int) -> Float[Tensor, "3 h w"]:
        file, (width, height) = self.files[place], self.sizes[place]
        levels = np.asarray(open_rgb(file, BadRequest), dtype=np.float32)
        if levels.shape[:2] != (height, width):
            raise BadRequest(
                f"{file} has {levels.shape[1]} x {levels.shape[0]} pixels and the JSON says "
                f"{width} x {height}, so its boxes are of another picture; write the JSON again"
            )
        return torch.from_numpy(levels / 255).permute(2, 0, 1)


def coco(folder: Path, annotations: Path | None = None) -> CocoScenes:
    """Opens pictures with a JSON file in COCO's layout.

    Classes are numbered from 0 in the order of the categories' ids. Pictures without annotations
    are scenes with nothing in them.

    Args:
        folder: that the JSON's file names start from.
        annotations: the JSON file; the one that lies in the folder when left out.

    Raises:
        MissingInput: the folder, the JSON or a picture is not there.
        BadRequest: the JSON is broken, or an annotation is of a picture or category that it does
            not list, or of a box outside of its picture.
    """
    if not folder.is_dir():
        raise MissingInput(f"there is no folder of pictures at {folder}")
    file = _only_json(folder) if annotations is None else annotations
    try:
        content = read_json_object(file, advice="give a JSON file in COCO's layout")
    except FileNotFoundError:
        raise MissingInput(f"there is no JSON file at {file}") from None
    for part in _PARTS:
        if not isinstance(content.get(part), list):
            raise BadRequest(f"{file} has no list of {part}; give a JSON file in COCO's layout")
    try:
        return _read(folder, file, content)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, BadRequest):
            raise
        raise BadRequest(
            f"{file} is not in COCO's layout: {_what(error)}; images need id, file_name, width and "
            "height, annotations image_id, category_id and bbox"
        ) from error


def _what(error: Exception) -> str:
    told = f"{error}"[:80]
    return f"an entry lacks {told}" if isinstance(error, KeyError) else f"in an entry, {told}"


def _only_json(folder: Path) -> Path:
    found = sorted(folder.glob("*.json"))
    if len(found) != 1:
        held = ", ".join(each.name for each in found[:4]) or "none"
        raise MissingInput(
            f"{folder} should hold one JSON file that says what is in its pictures, and holds "
            f"{held}; name the file"
        )
    return found[0]


def _read(folder: Path, file: Path, content: Mapping[str, Any]) -> CocoScenes:
    categories = sorted(content["categories"], key=lambda one: int(one["id"]))
    numbers = {int(one["id"]): number for number, one in enumerate(categories)}
    names = tuple(str(one["name"]) for one in categories)
    images = {int(one["id"]): one for one in content["images"]}
    _check_unique(file, len(images), len(content["images"]), "images")
    _check_unique(file, len(numbers), len(categories), "categories")
    _check_unique(file, len({name.casefold() for name in names}), len(names), "category names")
    if not images:
        raise MissingInput(f"{file} lists no picture")
    sizes = {key: (int(one["width"]), int(one["height"])) for key, one in images.items()}
    found: dict[int, list[tuple[tuple[float, ...], int]]] = {key: [] for key in images}
    crowds = 0
    for one in content["annotations"]:
        image, category = int(one["image_id"]), int(one["category_id"])
        for known, number, what in ((images, image, "image"), (numbers, category, "category")):
            if number not in known:
                raise BadRequest(f"{file} annotates {what} {number}, which it does not list")
        if one.get("iscrowd"):
            crowds += 1
            continue
        found[image].append((_shares(file, one, sizes[image]), numbers[category]))
    files = tuple(_place(folder, file, str(one["file_name"])) for one in images.values())
    things = tuple(_annotated(found[key]) for key in images)
    return CocoScenes(names, files, tuple(sizes.values()), things, crowds)


def _check_unique(file: Path, different: int, count: int, what: str) -> None:
    if different != count:
        raise BadRequest(f"{file} lists {count} {what} and only {different} of them differ")


def _shares(file: Path, one: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, ...]:
    """Turns pixels of left, top, width, height into shares of centre and size."""
    left, top, width, height = (float(each) for each in one["bbox"])
    right, bottom = left + width, top + height
    inside = -_BEYOND <= left < right <= size[0] + _BEYOND
    inside = inside and -_BEYOND <= top < bottom <= size[1] + _BEYOND
    if not (inside and all(map(math.isfinite, (left, top, right, bottom)))):
        raise BadRequest(
            f"{file}: annotation {one.get('id', 'without id')} has the box {one['bbox']!r:.80} in "
            f"a picture of {size[0]} x {size[1]} pixels; boxes are left, top, width and height in "
            "pixels, within the picture"
        )
    left, right = max(left, 0.0) / size[0], min(right, float(size[0])) / size[0]
    top, bottom = max(top, 0.0) / size[1], min(bottom, float(size[1])) / size[1]
    return ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def _annotated(found: Sequence[tuple[tuple[float, ...], int]]) -> Annotated:
    boxes = torch.tensor([box for box, _ in found], dtype=torch.float32).reshape(-1, 4)
    return Annotated(boxes, torch.tensor([number for _, number in found], dtype=torch.long))


def _place(folder: Path, file: Path, name: str) -> Path:
    place = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BadRequest(f"{file} names the picture {name[:80]}, which lies outside of {folder}")
    if not place.is_file():
        raise MissingInput(f"{file} names the picture {name[:80]}, and {folder} does not hold it")
    return place


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise BadRequest(f"the picture {file} cannot be read: {error}") from error
