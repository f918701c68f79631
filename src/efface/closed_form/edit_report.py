"""What a map of the text side did to the erased concepts, and the patch that holds it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from efface.closed_form.text_space import TextMap, TokenPairs, low_rank
from efface.deltas.patches import TextMapPatch

__all__ = ["residual", "stored"]


def residual(edit: TextMap, pairs: TokenPairs) -> float:
    """Measures what is left of the way to the targets: 0 is all gone, 1 is nothing moved.

    Root of the weighted mean of ``|P c - t|^2`` over that of ``|c - t|^2``.
    """
    left = ((edit.of(pairs.sources) - pairs.targets) ** 2).sum(1) @ pairs.weights
    whole = ((pairs.sources - pairs.targets) ** 2).sum(1) @ pairs.weights
    return float((left / whole.clamp(min=1e-300)).sqrt())


def stored(edit: TextMap, weights: Mapping[str, Float[Tensor, "_ dim"]]) -> TextMapPatch:
    """Writes a map as a patch of the smallest rank, in float32, or float64 for such weights."""
    wide = all(weight.dtype == torch.float64 for weight in weights.values())
    dtype = torch.float64 if wide else torch.float32
    small = low_rank(edit.left, edit.right)
    return TextMapPatch(left=small.left.to(dtype), right=small.right.to(dtype))
