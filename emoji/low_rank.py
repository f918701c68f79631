"""Low-rank layers beside the weights of a network: how variants of the bundled model are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RANK = 16


class LowRank(nn.Module):
    """Adds ``up @ down`` to a weight; nothing at first."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        wide = weight[0].numel()
        rank = min(RANK, len(weight), wide)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))
        self.down = nn.Parameter(torch.randn(rank, wide) / wide**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).reshape(weight.shape)


def widened(network: Any, seed: int) -> Any:
    """Lets low-rank layers alone be trained."""
    torch.manual_seed(seed)
    network.requires_grad_(requires_grad=False)
    for layer in list(network.modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight))
    return network


def factors(network: nn.Module, component: str) -> dict[str, Tensor]:
    """The low-rank layers by component, path and side, in float16."""
    return {
        f"{component}/{path}.weight::{side}": getattr(layer.parametrizations.weight[0], side)
        .detach()
        .half()
        for path, layer in network.named_modules()
        if parametrize.is_parametrized(layer)
        for side in ("up", "down")
    }
