"""A folder with a folder of pictures for each class, named as the class is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.data.pictures import identity_of
from efface.errors import BadRequest, MissingInput
from efface.picture_files import SUFFIXES, open_rgb

__all__ = ["PictureFolder", "image_folder"]


@dataclass(frozen=True, eq=False)
class PictureFolder:
    """Picture files with a class each; see `efface.data.pictures.LabelledPictures`."""

    names: tuple[str, ...]
    files: tuple[Path, ...]
    numbers: tuple[int, ...]
    """The class of each file."""

    @cached_property
    def labels(self) -> Int[Tensor, " n"]:
        """See `LabelledPictures`."""
        return torch.tensor(self.numbers, dtype=torch.long)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """See `LabelledPictures`; reads every file once, and keeps none."""
        return tuple(_digest(file) for file in self.files)

    @property
    def identity(self) -> str:
        """See `LabelledPictures`."""
        return identity_of(self)

    def __len__(self) -> int:
        """Counts the pictures."""
        return len(self.files)

    def read(self, which: Sequence[int]) -> list[Float[Tensor, "3 h w"]]:
        """See `LabelledPictures`.

        Raises:
            BadRequest: a file cannot be read.
        """
        return [_pixels(self.files[place]) for place in which]


def image_folder(folder: Path) -> PictureFolder:
    """Lists the pictures of a folder's folders, which name the classes.

    Raises:
        MissingInput: there is no such folder, or no picture in it.
        BadRequest: it holds files that are not pictures, pictures outside of class folders, or one
            picture in two of them.
    """
    if not folder.is_dir():
        raise MissingInput(f"there is no folder of pictures at {folder}")
    classes = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    if loose := [each.name for each in classes if not each.is_dir()]:
        raise BadRequest(
            f"{folder} holds {loose[0]} beside its folders; give a folder with one folder of "
            "pictures for each class"
        )
    found = [(file, number) for number, place in enumerate(classes) for file in _pictures(place)]
    if not found:
        raise MissingInput(f"{folder} holds no picture; put a folder of pictures for each class in")
    files, numbers = zip(*found, strict=True)
    made = PictureFolder(tuple(each.name for each in classes), tuple(files), tuple(numbers))
    _refuse_two_names(made)
    return made


def _refuse_two_names(pictures: PictureFolder) -> None:
    """Refuses a picture of two classes, which would be learnt, or counted, as both.

    Raises:
        BadRequest: naming both files.
    """
    first: dict[str, int] = {}
    for place, digest in enumerate(pictures.keys):
        other = first.setdefault(digest, place)
        if pictures.numbers[other] != pictures.numbers[place]:
            raise BadRequest(
                f"{pictures.files[other]} and {pictures.files[place]} are the same picture in two "
                "classes; remove it from one of them"
            )


def _pictures(place: Path) -> list[Path]:
    every = sorted(file for file in place.rglob("*") if not file.name.startswith("."))
    files = [file for file in every if file.is_file()]
    if odd := [file for file in files if file.suffix.lower() not in SUFFIXES]:
        raise BadRequest(f"{odd[0]} is not a picture; pictures end in {', '.join(SUFFIXES)}")
    return files


def _pixels(file: Path) -> Float[Tensor, "3 h w"]:
    levels = np.asarray(open_rgb(file, BadRequest), dtype=np.float32)
    return torch.from_numpy(levels / 255).permute(2, 0, 1)


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise BadRequest(f"the picture {file} cannot be read: {error}") from error
