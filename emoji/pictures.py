"""The rendered pictures as tensors, and the splits every training shares."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fetch import WORK


@dataclass(frozen=True)
class Pictures:
    """All rendered pictures, uint8 (n, 3, 64, 64), and one label row each."""

    pixels: Tensor
    labels: list[dict[str, Any]]

    @classmethod
    def read(cls) -> Pictures:
        pixels = load_file(WORK / "pictures.safetensors")["pictures"]
        return cls(pixels, json.loads((WORK / "pictures.json").read_text()))

    def where(self, **wanted: Any) -> Tensor:
        """Indices of the rows whose label has all the given values."""
        rows = [
            i
            for i, label in enumerate(self.labels)
            if all(label.get(key) == value for key, value in wanted.items())
        ]
        return torch.tensor(rows)

    @cached_property
    def trained(self) -> Tensor:
        """Indices of single-noun pictures outside the held-out pairs."""
        return self.where(kind="noun", held_out=False)

    def images(self, rows: Tensor) -> Tensor:
        """Pictures as floats in -1..1, (n, 3, 64, 64)."""
        return self.pixels[rows].float() / 127.5 - 1


def draw(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the rows, with repetition."""
    return rows[torch.randint(len(rows), (count,), generator=generator)]
