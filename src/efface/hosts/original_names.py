"""Where the parameters of a transformer lie in the code that it was published with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

__all__ = ["OriginalNames", "Piece"]

_BLOCK = re.compile(r"^([a-z_.]+?)\.(\d+)\.")


class Piece(NamedTuple):
    """The rows of a parameter of the original network that one of diffusers' is."""

    name: str
    """The original parameter's path."""
    start: int
    rows: int
    whole: int
    """How many rows the original parameter has."""
    swapped: bool = False
    """Whether its halves, a shift and a scale, are in the other order."""

    @property
    def is_all(self) -> bool:
        """Whether the two parameters are the same."""
        return self.rows == self.whole and not self.swapped


@dataclass(frozen=True, kw_only=True)
class OriginalNames:
    """The original names of a family's layers; ``{}`` stands for the number of a block."""

    layers: Mapping[str, str]
    """By diffusers' names of layers and of parameters that are in no layer."""
    fused: Mapping[str, tuple[str, ...]]
    """Original layers whose rows are those of several of diffusers' layers, in this order."""
    swapped: tuple[str, ...] = ()
    """Layers whose halves are in the other order."""
    swapped_last: tuple[str, ...] = ()
    """The same, in the last block alone."""
    _parts: dict[str, tuple[str, int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for whole, parts in self.fused.items():
            self._parts.update({part: (whole, place) for place, part in enumerate(parts)})

    def pieces(self, network: nn.Module) -> dict[str, Piece]:
        """Gives by diffusers' paths where the parameters of a network lie in the original one.

        Parameters that the original code does not have are left out.
        """
        rows = {path: len(weight) for path, weight in network.named_parameters() if weight.ndim}
        numbers = [int(found[2]) for path in rows if (found := _BLOCK.match(path))]
        last = max(numbers, default=0)
        every = {path: self._piece(path, rows, last) for path in rows}
        return {path: piece for path, piece in every.items() if piece is not None}

    def _piece(self, path: str, rows: Mapping[str, int], last: int) -> Piece | None:
        block = _BLOCK.match(path)
        number = "" if block is None else block[2]
        plain = path if block is None else f"{block[1]}.{{}}.{path[block.end() :]}"
        if plain in self.layers:
            return Piece(self.layers[plain].format(number), 0, rows[path], rows[path])
        layer, _, leaf = plain.rpartition(".")
        if layer in self._parts:
            whole, place = self._parts[layer]
            names = [f"{part.format(number)}.{leaf}" for part in self.fused[whole]]
            sizes = [rows.get(name, rows[path]) for name in names]  # streamed: some are not there
            start = sum(sizes[:place])
            return Piece(f"{whole.format(number)}.{leaf}", start, rows[path], sum(sizes))
        if layer not in self.layers:
            return None
        swapped = layer in self.swapped or (layer in self.swapped_last and number == str(last))
        name = f"{self.layers[layer].format(number)}.{leaf}"
        return Piece(name, 0, rows[path], rows[path], swapped)
