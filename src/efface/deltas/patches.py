"""Four shapes of change to a weight: dense, low rank, rows, and one map of the text side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.errors import BadDelta, BadRequest

__all__ = [
    "KINDS",
    "UNGATED",
    "DensePatch",
    "LowRankPatch",
    "Patch",
    "RowPatch",
    "TextMapPatch",
    "added",
    "carried",
    "dense_form",
    "finite",
    "scaled",
]


@dataclass(frozen=True, eq=False)
class DensePatch:
    """Adds a tensor of the weight's own shape."""

    difference: Float[Tensor, "*shape"]

    def on(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Gives what is added to ``weight``, in its dtype."""
        return self.difference.to(weight).reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class LowRankPatch:
    """Adds ``up @ down``; for convolutions ``in_`` is input channels times kernel size."""

    up: Float[Tensor, "out rank"]
    down: Float[Tensor, "rank in_"]

    def on(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Gives what is added to ``weight``, in its dtype."""
        return (self.up.to(weight) @ self.down.to(weight)).reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class RowPatch:
    """Adds to some rows only, as for token embeddings."""

    rows: Int[Tensor, " n"]
    difference: Float[Tensor, "n dim"]

    def on(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Gives what is added to ``weight``, in its dtype."""
        change = torch.zeros_like(weight)
        return change.index_add(0, self.rows.to(weight.device), self.difference.to(weight))


@dataclass(frozen=True, eq=False)
class TextMapPatch:
    """Multiplies every weight that reads text by ``I + left @ right`` on the text side."""

    left: Float[Tensor, "dim rank"]
    right: Float[Tensor, "rank dim"]

    @property
    def rank(self) -> int:
        """The number of directions that change."""
        return len(self.right)

    def on(self, weight: Float[Tensor, "out dim"]) -> Float[Tensor, "out dim"]:
        """Gives what is added to ``weight``, in its dtype; the cheaper order of two products."""
        left, right = self.left.to(weight), self.right.to(weight)
        (width, rank), outputs = left.shape, len(weight)
        if rank * width + outputs * width < 2 * outputs * rank:
            return weight @ (left @ right)
        return (weight @ left) @ right

    def for_layer(self, weight: Float[Tensor, "out dim"]) -> LowRankPatch:
        """Writes the change of one layer as a low-rank patch of the same rank, in float32."""
        up = weight.detach().to("cpu", torch.float64) @ self.left.to(torch.float64)
        return LowRankPatch(up=up.to(self.right.dtype), down=self.right)


Patch: TypeAlias = DensePatch | LowRankPatch | RowPatch | TextMapPatch

UNGATED = "ungated::"
"""Before the names of ungated patches in files."""
KINDS: dict[str, type[DensePatch | LowRankPatch | RowPatch | TextMapPatch]] = {
    "dense": DensePatch,
    "low_rank": LowRankPatch,
    "rows": RowPatch,
    "text_map": TextMapPatch,
}


def finite(scale: Any) -> float:
    """Gives a scale, of whatever kind of number, as a float.

    Raises:
        BadRequest: it is no number, or not finite.
    """
    try:
        number = math.nan if isinstance(scale, bool) else float(scale)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRequest(f"the scale is {scale!r:.40}; it must be a finite number")
    return number


def scaled(patch: Patch, scale: float) -> Patch:
    """Multiplies the change by a number."""
    match patch:
        case DensePatch():
            return DensePatch(patch.difference * scale)
        case LowRankPatch():
            return LowRankPatch(patch.up * scale, patch.down)
        case RowPatch():
            return RowPatch(patch.rows, patch.difference * scale)
        case TextMapPatch():
            return TextMapPatch(patch.left * scale, patch.right)


def added(first: Patch, second: Patch) -> Patch:
    """Adds two changes of the same weight.

    Low-rank changes keep both factors side by side, which is exact; different kinds become dense.

    Raises:
        BadDelta: the shapes do not fit each other.
    """
    try:
        return _added(first, second)
    except RuntimeError as error:
        raise BadDelta(
            f"two patches of the same weight have different shapes ({error}); "
            "the deltas were made for different models"
        ) from error


def _added(first: Patch, second: Patch) -> Patch:
    match first, second:
        case (LowRankPatch(), LowRankPatch()):
            return LowRankPatch(
                torch.cat([first.up, second.up], dim=1), torch.cat([first.down, second.down])
            )
        case (TextMapPatch(), TextMapPatch()):
            return TextMapPatch(
                torch.cat([first.left, second.left], dim=1), torch.cat([first.right, second.right])
            )
        case (RowPatch(), RowPatch()):
            return _added_rows(first, second)
        case _:
            return DensePatch(dense_form(first, like=second) + dense_form(second, like=first))


def _added_rows(first: RowPatch, second: RowPatch) -> RowPatch:
    rows, position = torch.cat([first.rows, second.rows]).unique(return_inverse=True)
    differences = torch.cat([first.difference, second.difference])
    total = differences.new_zeros(len(rows), differences.shape[1])
    return RowPatch(rows, total.index_add(0, position, differences))


def dense_form(patch: Patch, *, like: Patch) -> Float[Tensor, "*shape"]:
    """Writes a change as a full tensor; the other patch supplies the shape where it is open.

    Raises:
        BadDelta: a text map has no form without the weight it multiplies.
    """
    match patch:
        case DensePatch():
            return patch.difference
        case LowRankPatch():
            flat = patch.up @ patch.down
            return flat.reshape(like.difference.shape) if isinstance(like, DensePatch) else flat
        case RowPatch():
            return patch.on(torch.zeros_like(dense_form(like, like=patch)))
        case TextMapPatch():
            raise BadDelta(
                "a text map cannot be added to a patch of one weight; apply them in turn"
            )


def carried(first: Patch, text_map: TextMapPatch) -> Patch:
    """Gives what a text map adds on top of an earlier change D of the weight: ``D left right``.

    ``(W + D)(I + left right) = W + W left right + D + D left right``. The result has D's kind.
    """
    match first:
        case TextMapPatch():
            return TextMapPatch(first.left @ (first.right @ text_map.left), text_map.right)
        case LowRankPatch():
            return LowRankPatch(first.up, (first.down @ text_map.left) @ text_map.right)
        case DensePatch():
            return DensePatch(text_map.on(first.difference))
        case RowPatch():
            return RowPatch(first.rows, text_map.on(first.difference))
