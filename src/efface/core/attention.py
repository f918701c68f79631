"""Views of the cross-attention weights that read text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.errors import BadModel
from efface.models.components import key_value_names

__all__ = ["joint_factor", "key_value_weights", "responses"]

TALL = 4
"""How many times taller than wide a stack is before it is factorised: memory against work."""


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
                "remove image adapters or motion modules before erasing"
            )
    return found


def joint_factor(weights: Mapping[str, Float[Tensor, "_ dim"]]) -> Float[Tensor, "dim dim"]:
    """Gives an F with ``F^T F = sum W^T W`` over all layers, in float64.

    ``|F x|`` is the size of all keys and values that a token x makes. QR keeps the condition number
    of the stacked weights, which the sum of products would square.
    """
    width = next(iter(weights.values())).shape[1]
    blocks = [torch.zeros(width, width, dtype=torch.float64)]
    # By name, so that the order in which a model lists its layers cannot change the rounding.
    for number, (_, weight) in enumerate(sorted(weights.items()), start=1):
        blocks.append(weight.to("cpu", torch.float64))
        if sum(map(len, blocks)) > TALL * width or number == len(weights):
            blocks = [torch.linalg.qr(torch.cat(blocks), mode="r").R]
    return blocks[0]


def responses(
    weights: Mapping[str, Float[Tensor, "_ dim"]], rows: Float[Tensor, "n dim"]
) -> Float[Tensor, "n out"]:
    """Gives the keys and values of token rows, all layers side by side, in float64."""
    wide = rows.to("cpu", torch.float64)
    return torch.cat([wide @ weight.to("cpu", torch.float64).T for weight in weights.values()], 1)
