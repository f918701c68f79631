"""Searches for the inputs at which a loss is lowest, near a start: steps along gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Found", "Search", "fgsm", "pgd", "released_fast", "released_pgd", "search"]

Search: TypeAlias = Literal["fgsm", "pgd", "released_pgd", "released_fast"]
"""How inputs are searched for: see the functions of these names."""
Loss: TypeAlias = Callable[[Float[Tensor, "*shape"]], Float[Tensor, ""]]
"""Gives what is to be made small; it may ask about other samples at every call."""


class Found(NamedTuple):
    """Where a search ended, and the loss at the places where it took a gradient, in order."""

    inputs: Float[Tensor, "*shape"]
    losses: tuple[float, ...]


def search(
    kind: Search,
    loss: Loss,
    start: Float[Tensor, "*shape"],
    *,
    steps: int,
    rate: float,
    radius: float,
    generator: torch.Generator,
) -> Found:
    """Makes a loss small by changing its inputs alone; no other gradient is kept.

    Args:
        kind: how.
        loss: of the inputs.
        start: where to begin; it is not changed.
        steps: gradients that are taken; ``fgsm`` takes one.
        rate: how far each step goes in every coordinate.
        radius: how far a coordinate may end from the start, of ``fgsm`` and ``pgd``; 0: anywhere.
        generator: draws where in the ball they begin.
    """
    if kind == "released_pgd":
        return released_pgd(loss, start, steps=steps, rate=rate)
    if kind == "released_fast":
        return released_fast(loss, start, steps=steps, rate=rate)
    if kind == "fgsm":
        return fgsm(loss, start, rate=rate, radius=radius, generator=generator)
    return pgd(loss, start, steps=steps, rate=rate, radius=radius, generator=generator)


def fgsm(
    loss: Loss,
    start: Float[Tensor, "*shape"],
    *,
    rate: float,
    radius: float,
    generator: torch.Generator,
) -> Found:
    """Takes one step along the gradient's sign from a random place in the ball, and projects.

    The start of fast adversarial training (Wong et al., 2020); without a ball it is FGSM itself.
    """
    return pgd(loss, start, steps=1, rate=rate, radius=radius, generator=generator)


def pgd(
    loss: Loss,
    start: Float[Tensor, "*shape"],
    *,
    steps: int,
    rate: float,
    radius: float,
    generator: torch.Generator,
) -> Found:
    """Takes steps along the gradient's sign, each projected to the ball (Madry et al., 2018)."""
    inputs, losses = start.detach().clone(), []
    if radius > 0:
        drawn = torch.rand(start.shape, generator=generator, dtype=torch.float32)
        inputs = inputs + radius * (2 * drawn - 1).to(start)
    for _ in range(steps):
        gradient, value = _gradient(loss, inputs)
        losses.append(value)
        inputs = inputs - rate * gradient.sign()
        if radius > 0:
            inputs = start + (inputs - start).clamp(-radius, radius)
    return Found(inputs.detach(), tuple(losses))


def released_pgd(loss: Loss, start: Float[Tensor, "*shape"], *, steps: int, rate: float) -> Found:
    """Does what AdvUnlearn's code calls PGD: Adam on the running sum of gradients, without a ball.

    Its last step comes after the result was put together, so that S steps move S - 1 times; the
    last gradient, which nothing reads, is not computed here.
    """
    return _adam(loss, start, steps, rate, lambda total, gradient: total + gradient)


def released_fast(loss: Loss, start: Float[Tensor, "*shape"], *, steps: int, rate: float) -> Found:
    """Does what AdvUnlearn's code calls fast: the same with the sum replaced by its sign in place.

    Gradients are far below 1, so the first one's sign decides every step.
    """
    return _adam(loss, start, steps, rate, lambda total, gradient: (total + gradient).sign())


def _adam(
    loss: Loss,
    start: Tensor,
    steps: int,
    rate: float,
    gathered: Callable[[Tensor, Tensor], Tensor],
) -> Found:
    inputs, losses = start.detach().clone(), []
    optimiser, total = torch.optim.Adam([inputs], lr=rate), torch.zeros_like(inputs)
    for _ in range(steps - 1):
        gradient, value = _gradient(loss, inputs)
        losses.append(value)
        total = gathered(total, gradient)
        inputs.grad = total.clone()
        optimiser.step()
    return Found(inputs.detach(), tuple(losses))


def _gradient(loss: Loss, inputs: Tensor) -> tuple[Tensor, float]:
    """Differentiates by the inputs alone, so that nothing piles up in a network's weights."""
    asked = inputs.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(asked)
        (gradient,) = torch.autograd.grad(value, asked)
    return gradient, float(value.detach())
