"""What layers that read text make of rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["joint_factor", "responses"]

BLOCKS = 8
"""Column blocks in which a symmetric product is formed, on and above the diagonal."""


def joint_factor(weights: Mapping[str, Float[Tensor, "_ dim"]]) -> Float[Tensor, "dim dim"]:
    """Gives an F with ``F^T F = sum W^T W`` over all layers, in float64.

    ``|F x|`` is the size of all keys and values that a token x makes. Half of the sum of products,
    which is symmetric, is formed and F is its root: much less work than a QR factorisation of the
    stack. Directions below 1e-8 of the largest drown in rounding; weights stored in float32 or less
    do not resolve them either.
    """
    width = next(iter(weights.values())).shape[1]
    total = torch.zeros(width, width, dtype=torch.float64)
    edges = range(0, width, max(1, width // BLOCKS))
    # By name, so that the order in which a model lists its layers cannot change the rounding.
    for _, weight in sorted(weights.items()):
        wide = weight.to("cpu", torch.float64)
        for start in edges:
            block = slice(start, start + edges.step)
            total[block, start:] += wide[:, block].T @ wide[:, start:]
    values, vectors = torch.linalg.eigh(total.triu() + total.triu(1).T)
    factor: Tensor = values.clamp(min=0).sqrt()[:, None] * vectors.T
    return factor


def responses(
    weights: Mapping[str, Float[Tensor, "_ dim"]], rows: Float[Tensor, "n dim"]
) -> Float[Tensor, "n out"]:
    """Gives the keys and values of token rows, all layers side by side, in float64."""
    wide = rows.to("cpu", torch.float64)
    return torch.cat([wide @ weight.to("cpu", torch.float64).T for weight in weights.values()], 1)
