"""Rows that make edited layers give what the unedited ones gave, whatever the edit was."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["recovering_rows"]


def recovering_rows(
    edited: Mapping[str, Float[Tensor, "_ dim"]],
    unedited: Mapping[str, Float[Tensor, "_ dim"]],
    rows: Float[Tensor, "n dim"],
    *,
    strength: float,
) -> Float[Tensor, "n dim"]:
    """Solves ``min sum |W e' - W0 e|^2 + s |e'|^2`` for every row e (RECE, section 3.2).

    With ``A = sum W^T W + s I`` and ``B = sum W^T W0`` that is ``e' = A^-1 B e``; s is ``strength``
    times the layers' mean squared gain, the trace of ``sum W^T W`` by the width. Layers need not
    share a map, so that fine-tuned ones are solved for as well. In float64.

    Args:
        edited: the layers W by path.
        unedited: the layers W0 by the same paths.
        rows: embeddings e of the concept.
        strength: weight of the penalty on their length; above 0.
    """
    width = rows.shape[-1]
    own = torch.zeros(width, width, dtype=torch.float64)
    mixed = torch.zeros(width, width, dtype=torch.float64)
    for path in sorted(edited):
        now, before = (held[path].to("cpu", torch.float64) for held in (edited, unedited))
        own += now.T @ now
        mixed += now.T @ before
    penalty = strength * float(own.trace()) / width
    right = mixed @ rows.to("cpu", torch.float64).T
    system = own + penalty * torch.eye(width, dtype=torch.float64)
    found: Tensor = torch.linalg.solve(system, right).T
    return found
