"""Random changes of pictures that leave what they show: place, size, light, grain, softness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Moves, scales, re-lights, blurs or grains each picture (n, 3, h, w) in 0..1."""
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = uniform(0.92, 1.1)
    theta[:, :, 2] = uniform(-0.08, 0.08, 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = uniform(0, 1, 1, 1, 1) * (uniform(0, 1, 1, 1, 1) < 0.4)
    moved = torch.lerp(moved, soft, amount)
    lit = moved * uniform(0.93, 1.05, 3, 1, 1) + uniform(-0.03, 0.03, 1, 1, 1)
    grain = torch.randn(images.shape, generator=generator) * uniform(0, 0.04, 1, 1, 1)
    return (lit + grain).clamp(0, 1)
