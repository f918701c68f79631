"""What losses of classifiers are made of: answers that are compared, left out, or held low."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["above_the_rest", "answers_apart", "leaving_out", "mixed"]


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


def above_the_rest(
    logits: Float[Tensor, "n classes"], classes: Sequence[int], *, margin: float
) -> Float[Tensor, ""]:
    """Gives by how much some logits exceed the mean of a picture's less a margin, on average.

    Args:
        logits: of pictures.
        classes: whose logits are wanted to be low.
        margin: in standard deviations of a picture's logits, as what is given.
    """
    spread = logits.std(1, keepdim=True).clamp(min=torch.finfo(logits.dtype).tiny)
    standard = (logits - logits.mean(1, keepdim=True)) / spread
    return functional.relu(standard[:, list(classes)] + margin).mean()


def leaving_out(
    logits: Float[Tensor, "n classes"], classes: Sequence[int]
) -> Float[Tensor, "n classes"]:
    """Gives logits among which some classes win nothing: theirs are minus infinity."""
    if not classes:
        return logits
    left_out = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    left_out[list(classes)] = True
    return logits.masked_fill(left_out, -torch.inf)


def mixed(pixels: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Mixes each picture with another of the batch, in shares that are drawn evenly."""
    count = len(pixels)
    share = torch.rand(count, 1, 1, 1, generator=generator).to(pixels)
    return share * pixels + (1 - share) * pixels[torch.randperm(count, generator=generator)]
