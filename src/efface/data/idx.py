"""IDX files, the layout of MNIST and Fashion-MNIST: one file of pictures, one of labels."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.data.pictures import identity_of
from efface.errors import BadRequest, MissingInput

__all__ = ["IdxPictures", "idx_files"]

_HEAD = 4
_FASHION = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class IdxPictures:
    """Grey pictures of one size; see `efface.data.pictures.LabelledPictures`."""

    names: tuple[str, ...]
    levels: Any
    """uint8 (n, h, w), mapped from the file where that is not compressed."""
    labels: Int[Tensor, " n"]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """See `LabelledPictures`."""
        return tuple(hashlib.sha256(one.tobytes()).hexdigest()[:16] for one in self.levels)

    @property
    def identity(self) -> str:
        """See `LabelledPictures`."""
        return identity_of(self)

    def __len__(self) -> int:
        """Counts the pictures."""
        return len(self.labels)

    def read(self, which: Sequence[int]) -> list[Float[Tensor, "3 h w"]]:
        """See `LabelledPictures`; grey becomes three equal channels."""
        found = torch.from_numpy(np.array(self.levels[list(which)])).float() / 255
        return list(found[:, None].expand(-1, 3, -1, -1))


def idx_files(folder: Path, split: str = "train") -> IdxPictures:
    """Opens one split of a folder of IDX files, compressed or not.

    Args:
        folder: with ``<split>-images-idx3-ubyte`` and ``<split>-labels-idx1-ubyte``; the test split
            of MNIST is called ``t10k``.
        split: ``train``, or ``test``.

    Raises:
        MissingInput: there are no such files.
        BadRequest: a file is cut short, of another kind, or there are not as many labels.
    """
    prefix = {"test": "t10k"}.get(split, split)
    levels = _opened(_file(folder, f"{prefix}-images-idx3-ubyte"), 3)
    labels = np.array(_opened(_file(folder, f"{prefix}-labels-idx1-ubyte"), 1))
    if len(labels) != len(levels):
        raise BadRequest(f"{folder} has {len(levels)} pictures and {len(labels)} labels")
    classes = int(labels.max()) + 1
    fashion = "fashion" in str(folder) and classes == len(_FASHION)
    names = _FASHION if fashion else tuple(map(str, range(classes)))
    return IdxPictures(names, levels, torch.from_numpy(labels.astype(np.int64)))


def _file(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise MissingInput(f"{folder} has no {name}, nor {name}.gz; give a folder of IDX files")


def _opened(file: Path, dimensions: int) -> Any:
    """Reads a header, and maps what follows or, compressed, reads it."""
    packed = file.suffix == ".gz"
    with gzip.open(file) if packed else file.open("rb") as opened:
        head = opened.read(_HEAD + 4 * dimensions)
        rest = opened.read() if packed else b""
    if len(head) < _HEAD + 4 * dimensions or head[:4] != bytes((0, 0, 8, dimensions)):
        raise BadRequest(f"{file} is not an IDX file of bytes with {dimensions} dimensions")
    shape = tuple(int(size) for size in np.frombuffer(head, ">u4", offset=_HEAD))
    held = len(rest) if packed else file.stat().st_size - len(head)
    if held != int(np.prod(shape)):
        raise BadRequest(f"{file} holds {held} bytes and should hold {np.prod(shape)}: cut short")
    if packed:
        return np.frombuffer(rest, np.uint8).reshape(shape)
    return np.memmap(file, np.uint8, mode="r", offset=len(head), shape=shape)
