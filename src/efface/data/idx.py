"""IDX files, the layout of MNIST and Fashion-MNIST: one file of pictures, one of labels."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

__all__ = ["NAMES_FILE", "IdxPictures", "idx_files"]

NAMES_FILE = "names.txt"
"""Beside IDX files: the name of one class a line, since the files have numbers alone."""

_HEAD = 4
_BYTES = b"\0\0\x08"
"""How a file of bytes begins; the number of dimensions follows."""
_FASHION = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_FASHION_LABELS = ("657fbd221bfc9f41", "3d0e6c6ea990b53b")
"""Begin the SHA-256 of Fashion-MNIST's labels, by which its classes get their names anywhere."""


@dataclass(frozen=True, eq=False)
class IdxPictures:
    """Grey pictures of one size; see `efface.data.pictures.LabelledPictures`."""

    names: tuple[str, ...]
    levels: Any
    """uint8 (n, h, w), mapped from disk."""
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

    Pictures are mapped from disk; compressed ones are unpacked into a file without a name, which is
    gone when the pictures are. Classes are called by their numbers, or as ``names.txt`` says;
    Fashion-MNIST is known by its labels.

    Args:
        folder: with ``<split>-images-idx3-ubyte`` and ``<split>-labels-idx1-ubyte``; the test split
            of MNIST is called ``t10k``.
        split: ``train``, or ``test``.

    Raises:
        MissingInput: there are no such files, or no picture in them.
        BadRequest: a file is cut short, broken or of another kind, there are not as many labels as
            pictures, or fewer names than classes.
    """
    prefix = {"test": "t10k"}.get(split, split)
    levels = _mapped(_file(folder, f"{prefix}-images-idx3-ubyte"), 3)
    labels = np.array(_mapped(_file(folder, f"{prefix}-labels-idx1-ubyte"), 1))
    if len(labels) != len(levels):
        raise BadRequest(f"{folder} has {len(levels)} pictures and {len(labels)} labels")
    return IdxPictures(_names(folder, labels), levels, torch.from_numpy(labels.astype(np.int64)))


def _names(folder: Path, labels: Any) -> tuple[str, ...]:
    classes = int(labels.max()) + 1
    if (file := folder / NAMES_FILE).is_file():
        names = tuple(line.strip() for line in file.read_text("utf-8").splitlines() if line.strip())
        if len(names) < classes or len(set(names)) < len(names):
            raise BadRequest(
                f"{file} has {len(set(names))} different names in {len(names)} lines, and the "
                f"labels go up to {classes - 1}; write one name for each class"
            )
        return names
    fashion = hashlib.sha256(labels.tobytes()).hexdigest().startswith(_FASHION_LABELS)
    return _FASHION if fashion else tuple(map(str, range(classes)))


def _file(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise MissingInput(f"{folder} has no {name}, nor {name}.gz; give a folder of IDX files")


def _mapped(file: Path, dimensions: int) -> Any:
    """Reads a header and maps what follows it.

    Raises:
        MissingInput, BadRequest: see `idx_files`.
    """
    with _unpacked(file) as opened:
        head = opened.read(_HEAD + 4 * dimensions)
        if len(head) < _HEAD + 4 * dimensions or head[:_HEAD] != _BYTES + bytes([dimensions]):
            raise BadRequest(f"{file} is not an IDX file of bytes with {dimensions} dimensions")
        shape = tuple(int(size) for size in np.frombuffer(head, ">u4", offset=_HEAD))
        wanted, held = int(np.prod(shape, dtype=object)), opened.seek(0, 2) - len(head)
        if held != wanted:
            raise BadRequest(
                f"{file} holds {held} bytes after its header, which says {wanted}; "
                "it is cut short or broken: fetch it again"
            )
        if not wanted:
            raise MissingInput(f"{file} holds no picture")
        return np.memmap(opened, np.uint8, mode="r", offset=len(head), shape=shape)


@contextmanager
def _unpacked(file: Path) -> Iterator[Any]:
    if file.suffix != ".gz":
        with file.open("rb") as opened:
            yield opened
        return
    with tempfile.TemporaryFile() as unpacked:
        try:
            with gzip.open(file) as packed:
                shutil.copyfileobj(packed, unpacked)
        except (OSError, EOFError, zlib.error) as error:
            raise BadRequest(f"{file} cannot be unpacked ({error}); fetch it again") from error
        unpacked.seek(0)
        yield unpacked
