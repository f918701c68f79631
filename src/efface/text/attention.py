"""Views of the cross-attention weights that read text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.errors import BadModel
from efface.hosts.components import key_value_names

__all__ = ["joint_factor", "key_value_weights", "responses"]

BLOCKS = 8
"""Column blocks in which a symmetric product is formed, on and above the diagonal."""


def key_value_weights(unet: nn.Module, width: int) -> dict[str, Float[Tensor, "_ dim"]]:
    """Lists key and value weights by canonical path; views, not copies.

    Args:
        unet: a denoiser with ``attn2`` layers that read text.
        width: values per token embedding.

    Raises:
        BadModel: there are none, or a layer reads another width (an image adapter, say).
    """
    found = {path: weight.detach() for path, weight in key_value_names(unet).items()}
    if not found:
        raise BadModel("the denoiser has no attn2.to_k or attn2.to_v layer that reads text")
    for path, weight in found.items():
        if weight.ndim != 2 or weight.shape[1] != width:
            raise BadModel(
                f"{path} has shape {tuple(weight.shape)} and should read {width} values per token; "
                "the text encoder is of another model, or an image adapter or motion module reads "
                "something else there: remove it before erasing"
            )
    return found


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
