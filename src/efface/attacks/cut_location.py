"""The most changed weights put back, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from efface.contracts import Access, Attack, Paper
from efface.errors import BadRequest
from efface.revival.changes import Touched, left_standing, touched
from efface.revival.trials import drawn_with

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["CutLocation"]


@dataclass(frozen=True, kw_only=True)
class CutLocation(Attack):
    """Undoes the erasure where it cut deepest: the most changed rows or weights, relative to size.

    Says whether an erasure lies in a few places, which somebody finds by comparing two files.

    Differs from the paper:
        It is about pruned weights, whose zeros tell where they are, and fills them without the
        base. Here places are told by the size of the change and get their old values, which is the
        most that any way to fill them could do.
    """

    name: ClassVar[str] = "cut_location"
    paper: ClassVar[Paper | None] = Paper(
        "Roots Beneath the Cut: Uncovering the Risk of Concept Revival in Pruning-Based "
        "Unlearning for Diffusion Models",
        "2603.06640",
        2026,
    )
    access: ClassVar[Access] = "weights"
    needs_name: ClassVar[bool] = True

    unit: Literal["rows", "weights"] = "rows"
    """What is put back at a time: rows of weight matrices, or whole weights."""
    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25, 0.5)
    """Share of the changed ones that is put back, the most changed first."""

    def __post_init__(self) -> None:
        if not self.shares or not all(0 <= share <= 1 for share in self.shares):
            raise BadRequest(f"shares is {self.shares}; give at least one, each from 0 to 1")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:  # noqa: ARG002
        """Draws each prompt once with each share put back."""
        return drawn_with(target, self._changes(target))

    def _changes(self, target: Target) -> Iterator[Mapping[str, Any]]:
        """Gives what is changed, one thing after the other."""
        weights = touched(target)
        sizes = {key: self._sizes(weight) for key, weight in weights.items()}
        every = torch.cat([*sizes.values(), torch.zeros(0)])
        ordered = every[every > 0].sort(descending=True).values
        for share in self.shares:
            count = round(share * len(ordered))
            least = float(ordered[count - 1]) if count else float("inf")
            change = left_standing(target, weights, _kept(weights, sizes, least))
            yield {
                "without": change.without,
                "added": change.added,
                "note": f"the {count} most changed of {len(ordered)} {self.unit} put back",
            }

    def _sizes(self, weight: Touched) -> Tensor:
        """Measures the change of each row, or of all rows alike, beside what was there."""
        if self.unit == "weights" or weight.base.ndim < 2:
            return torch.tensor([weight.relative])
        change, base = weight.whole.flatten(1).norm(dim=1), weight.base.flatten(1).norm(dim=1)
        sizes: Tensor = (change / base.clamp(min=1e-12)).float().cpu()
        return sizes


def _kept(
    weights: Mapping[str, Touched], sizes: Mapping[str, Tensor], least: float
) -> dict[str, Tensor | float]:
    """Gives 1 for what stays erased and 0 for what is put back."""
    kept: dict[str, Tensor | float] = {}
    for key, size in sizes.items():
        stays = (size < least).to(weights[key].base)
        kept[key] = stays.reshape(-1, *[1] * (weights[key].base.ndim - 1))
    return kept
