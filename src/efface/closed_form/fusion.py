"""Low-rank layers of several concepts as one edit of keys and values, in closed form (MACE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from efface.closed_form.solving import factored
from efface.deltas.patches import LowRankPatch, Patch
from efface.errors import BadDelta

__all__ = ["fused"]


def fused(
    patches: Mapping[str, Patch],
    read: Sequence[Float[Tensor, "prompts tokens dim"]],
    kept: Float[Tensor, "kept tokens dim"],
    *,
    scale: float = 1.0,
    keep: float = 1.0,
    ridge: float = 1e-3,
) -> dict[str, Patch]:
    """Finds weights that do for each concept's rows what its own layers do, and nothing for others.

    Minimises ``sum_i |D c_i - scale D_i c_i|^2 + keep |D k|^2 + ridge |D|^2`` over the change D of
    each weight, where the sums over rows are means: ``D = scale (sum_i D_i G_i) (sum_i G_i + keep
    G_k + ridge I)^-1``. Its rank is at most that of all layers together.

    Args:
        patches: low-rank layers by parameter, the concepts' ranks stacked in order.
        read: rows of prompts that name each concept.
        kept: rows of prompts that must stay.
        scale: factor of the layers.
        keep: weight of the kept rows.
        ridge: pull toward no change.

    Raises:
        BadDelta: a patch is not of low rank, or does not hold the same rank for every concept.
        BadRequest: the system has no stable solution; raise the ridge.
    """
    own = [_gram(rows) for rows in read]
    dim = own[0].shape[0]
    system = sum(own, ridge * torch.eye(dim, dtype=torch.float64) + keep * _gram(kept))
    assert isinstance(system, Tensor)
    factor = factored(system, ridge)
    edits: dict[str, Patch] = {}
    for key, patch in patches.items():
        if not isinstance(patch, LowRankPatch) or len(patch.down) % len(own):
            raise BadDelta(f"{key} does not hold one low-rank layer of each of {len(own)} concepts")
        parts = patch.down.double().split(len(patch.down) // len(own))
        seen = torch.cat([part @ gram for part, gram in zip(parts, own, strict=True)])
        down = torch.cholesky_solve(seen.T, factor).T
        edits[key] = LowRankPatch(up=scale * patch.up, down=down.to(patch.down.dtype))
    return edits


def _gram(rows: Float[Tensor, "prompts tokens dim"]) -> Float[Tensor, "dim dim"]:
    """Gives the mean outer product of all rows."""
    flat = rows.flatten(0, 1).to("cpu", torch.float64)
    return flat.T @ flat / len(flat)
