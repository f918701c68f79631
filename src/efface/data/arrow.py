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
    """Of the datasets library, with columns of pictures and labels."""
    column: str
    label: str
    names: tuple[str, ...]

    @cached_property
    def labels(self) -> Int[Tensor, " n"]:
        """See `LabelledPictures`."""
        return torch.tensor(self.table[self.label][:], dtype=torch.long)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """See `LabelledPictures`; decodes every picture once, and keeps none."""
        return tuple(
            hashlib.sha256((one.permute(1, 2, 0) * 255).byte().numpy().tobytes()).hexdigest()[:16]
            for place in range(len(self))
            for one in self.read([place])
        )

    @property
    def identity(self) -> str:
        """See `LabelledPictures`."""
        return identity_of(self)

    def __len__(self) -> int:
        """Counts the pictures."""
        return len(self.table)

    def read(self, which: Sequence[int]) -> list[Float[Tensor, "3 h w"]]:
        """See `LabelledPictures`."""
        pictures = (self.table[place][self.column].convert("RGB") for place in which)
        return [
            torch.from_numpy(np.asarray(one, dtype=np.float32) / 255).permute(2, 0, 1)
            for one in pictures
        ]


def arrow_folder(folder: Path, split: str = "train") -> ArrowPictures:
    """Opens a folder that ``save_to_disk`` wrote.

    Args:
        folder: of a dataset, or of one with splits.
        split: which of them.

    Raises:
        MissingInput: the datasets library is not installed, or there is no such split.
        BadRequest: there is no column of pictures or of class labels.
    """
    try:
        import datasets
    except ImportError:
        raise MissingInput(
            f"{folder} was written by the datasets library; install it: pip install datasets"
        ) from None
    table: Any = datasets.load_from_disk(str(folder))
    if isinstance(table, datasets.DatasetDict):
        if split not in table:
            raise MissingInput(f"{folder} has no split {split}; it has {', '.join(table)}")
        table = table[split]
    kinds = table.features.items()
    columns = [name for name, kind in kinds if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in kinds if isinstance(kind, datasets.ClassLabel)]
    if not columns or not labels:
        raise BadRequest(
            f"{folder} has the columns {', '.join(table.column_names)}, and needs one of pictures "
            "(Image) and one of classes (ClassLabel); cast them in datasets"
        )
    names = tuple(table.features[labels[0]].names)
    return ArrowPictures(table, columns[0], labels[0], names)
