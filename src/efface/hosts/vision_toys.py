"""What toys of models that read pictures share: sizes, names of classes, preparation, weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efface.hosts.toys import filled

__all__ = ["SIDE", "TOY_VIT", "Resized", "toy_labels", "toy_network"]

SIDE = 16
TOY_VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIDE,
    "patch_size": 8,
}


class Resized:
    """Prepares pictures for toys: their size, and pixels of -1 to 1."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, pictures: Sequence[Float[Tensor, "3 h w"]]) -> Float[Tensor, "n 3 s s"]:
        """Prepares pictures with pixels of 0 to 1."""
        size = (self.side, self.side)
        sized = [functional.interpolate(one[None], size, mode="bilinear") for one in pictures]
        return 2 * torch.cat(sized) - 1


def toy_labels(what: str, classes: int) -> dict[str, Any]:
    """Names classes as configs have them."""
    names = {number: f"{what} {number}" for number in range(classes)}
    return {"id2label": names, "label2id": {name: number for number, name in names.items()}}


def toy_network(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Makes a network with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        network = make()
    filled(network, torch.Generator().manual_seed(seed))
    return network.eval().requires_grad_(requires_grad=False)
