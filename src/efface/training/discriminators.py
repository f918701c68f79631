"""A small network that tells two kinds of latents apart, patch by patch, and its training."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ANCHOR", "CONCEPT", "PatchDiscriminator"]

ANCHOR, CONCEPT = 0.0, 1.0
"""Labels of the two kinds."""


class PatchDiscriminator(nn.Module):
    """Convolutions that halve latents down to 4 by 4 and give one logit a patch (DoCo).

    At 64 by 64 these are four strided layers of 64 to 512 channels, as published (2,767,553
    parameters with four latent channels); smaller latents get as many as fit.

    Args:
        channels: of the latents.
        edge: their height.
        norm: ``batch``, as published, or ``group``, whose answer for a latent does not depend on
            the others in its batch.
        generator: draws the first weights, normal with a deviation of 0.02.
    """

    def __init__(self, channels: int, edge: int, *, norm: str, generator: torch.Generator) -> None:
        super().__init__()
        halvings = max(1, min(4, edge.bit_length() - 3))
        widths = [64 * 2**level for level in range(halvings)]
        layers: list[nn.Module] = [nn.utils.skip_init(nn.Conv2d, channels, widths[0], 4, 2, 1)]
        layers.append(nn.LeakyReLU(0.2))
        for before, after in pairwise(widths):
            layers.append(nn.utils.skip_init(nn.Conv2d, before, after, 4, 2, 1))
            layers.append(nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(8, after))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(nn.utils.skip_init(nn.Conv2d, widths[-1], 1, 4, 1, 1))
        self.layers = nn.Sequential(*layers)
        with torch.no_grad():
            for layer in layers:
                if isinstance(layer, nn.Conv2d):
                    drawn = torch.randn(layer.weight.shape, generator=generator)
                    layer.weight.copy_(0.02 * drawn)
                    assert layer.bias is not None
                    layer.bias.zero_()

    def forward(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 p q"]:
        """Gives logits: below zero for the anchor's kind, above for the concept's."""
        logits: Tensor = self.layers(latents)
        return logits

    def loss(self, latents: Float[Tensor, "n c h w"], label: float) -> Float[Tensor, ""]:
        """Measures how far from a label latents are taken to be, in nats a patch."""
        logits = self(latents)
        return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
