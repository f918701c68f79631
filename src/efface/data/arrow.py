"""Folders that the datasets library saved: rows with a picture and a label, mapped from disk."""

from __future__ import annotations

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

__all__ = ["ArrowPictures", "arrow_folder"]


@dataclass(frozen=True, eq=False)
class ArrowPictures:
    """Rows of a table on disk; see `efface.data.pictures.LabelledPictures`."""

    table: Any
    """Of the datasets library, with one column of pictures."""
    column: str
    labels: Int[Tensor, " n"]
    names: tuple[str, ...]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """See `LabelledPictures`; decodes every picture once, and keeps none."""
        return tuple(
            hashlib.sha256(self._levels(place).tobytes()).hexdigest()[:16]
            for place in range(len(self))
        )

    @property
    def identity(self) -> str:
        """See `LabelledPictures`."""
        return identity_of(self)

    def __len__(self) -> int:
        """Counts the pictures."""
        return len(self.labels)

    def read(self, which: Sequence[int]) -> list[Float[Tensor, "3 h w"]]:
        """See `LabelledPictures`.

        Raises:
            BadRequest: a row has no picture, or one that cannot be read.
        """
        levels = (self._levels(int(place)) for place in which)
        return [torch.from_numpy(one).float().permute(2, 0, 1) / 255 for one in levels]

    def _levels(self, place: int) -> Any:
        """Decodes one picture: uint8 (h, w, 3)."""
        try:
            picture = self.table[place][self.column]
            if picture is None:
                raise ValueError("there is none")
            return np.array(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise BadRequest(
                f"the picture in row {place} of column {self.column} cannot be read: {error}"
            ) from error


def arrow_folder(folder: Path, split: str = "train") -> ArrowPictures:
    """Opens a folder that ``save_to_disk`` wrote.

    Args:
        folder: of a dataset, or of one with splits.
        split: which of them.

    Raises:
        MissingInput: the datasets library is not installed, there is no such split, or no row.
        BadRequest: the folder is broken, there is not one column of pictures and one of class
            labels, or a row has no label.
    """
    try:
        import datasets
    except ImportError:
        raise MissingInput(
            f"{folder} was written by the datasets library; install it: pip install datasets"
        ) from None
    try:
        table: Any = datasets.load_from_disk(str(folder))
    except IndexError:  # What it says of a table without rows.
        raise MissingInput(f"{folder} holds no picture") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())[:200]
        raise BadRequest(
            f"{folder} is not what save_to_disk wrote ({why}); save it again"
        ) from error
    if isinstance(table, datasets.DatasetDict):
        if split not in table:
            raise MissingInput(f"{folder} has no split {split}; it has {', '.join(table)}")
        table = table[split]
    column = _only(folder, table, datasets.Image, "pictures (Image)")
    label = _only(folder, table, datasets.ClassLabel, "classes (ClassLabel)")
    if not len(table):
        raise MissingInput(f"{folder} holds no picture")
    numbers = table.with_format("numpy", columns=[label])[:][label]
    names = tuple(table.features[label].names)
    if (bad := _unlabelled(numbers, len(names))) is not None:
        raise BadRequest(
            f"row {bad} of {folder} has no class in column {label}; leave such rows out"
        )
    labels = torch.from_numpy(np.asarray(numbers).astype(np.int64))
    return ArrowPictures(table.select_columns([column]), column, labels, names)


def _only(folder: Path, table: Any, kind: type, what: str) -> str:
    found = [name for name, each in table.features.items() if isinstance(each, kind)]
    if len(found) != 1:
        raise BadRequest(
            f"{folder} has the columns {', '.join(table.column_names)}, of which {len(found)} "
            f"hold {what} and one should; cast or take out columns in datasets"
        )
    return str(found[0])


def _unlabelled(numbers: Any, classes: int) -> int | None:
    """Finds the first row whose label is none of the classes, as -1 is, or is missing."""
    values = np.asarray(numbers, dtype=np.float64)
    bad = np.flatnonzero(~((values >= 0) & (values < classes)))
    return int(bad[0]) if len(bad) else None
