"""Distances between the answers of two classifiers, for training one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["answers_apart", "mixed"]


def answers_apart(
    teacher: Float[Tensor, "n classes"],
    student: Float[Tensor, "n classes"],
    *,
    temperature: float = 1.0,
    without: Sequence[int] = (),
) -> Float[Tensor, ""]:
    """Gives ``KL(teacher || student)`` of softened answers, the mean over pictures.

    Args:
        teacher: logits that are wanted.
        student: logits that are trained.
        temperature: logits are divided by it before the softmax.
        without: classes that are left out of both, as if the heads did not have them.
    """
    if without:
        left = torch.ones(teacher.shape[1], dtype=torch.bool)
        left[list(without)] = False
        teacher, student = teacher[:, left], student[:, left]
    wanted, found = ((one / temperature).log_softmax(1) for one in (teacher, student))
    return functional.kl_div(found, wanted, reduction="batchmean", log_target=True)


def mixed(pixels: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Mixes each picture with another of the batch, in shares that are drawn evenly."""
    count = len(pixels)
    share = torch.rand(count, 1, 1, 1, generator=generator).to(pixels)
    return share * pixels + (1 - share) * pixels[torch.randperm(count, generator=generator)]
