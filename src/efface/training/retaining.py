"""Projects gradients out of the space in which kept prompts would move (after PGU's abstract)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.training.hooks import Plain

__all__ = ["RetainedSpace", "outside"]


def outside(gradient: Float[Tensor, " n"], directions: Float[Tensor, "k n"]) -> Float[Tensor, " n"]:
    """Takes out of a gradient what lies in the span of directions, which need not be orthogonal."""
    if not len(directions):
        return gradient
    gram = (directions @ directions.T).cpu().double()
    inner = (directions @ gradient).cpu().double()
    factors = torch.linalg.pinv(gram, hermitian=True) @ inner
    left: Tensor = gradient - factors.to(gradient) @ directions
    return left


class RetainedSpace(Plain):
    """Descends one term as it is, and the others outside the span of that term's recent gradients.

    To first order, a step along what is left changes nothing for the batches that those were of.

    Args:
        count: how many recent gradients span the space, that of the present step among them.
        held: the term; where a step lacks it, the others go on as they are.
    """

    def __init__(self, count: int, *, held: str) -> None:
        self._count, self._held = count, held
        self._recent: list[Tensor] = []

    def gradients(self, terms: Mapping[str, Tensor], parameters: Mapping[str, Tensor], /) -> None:
        """Fills every ``grad`` with the held term's gradient and what is left of the others'."""
        weights = [*parameters.values()]
        others = torch.stack([term for name, term in terms.items() if name != self._held]).sum()
        if self._held not in terms:
            others.backward()
            return
        kept = _flat(torch.autograd.grad(terms[self._held], weights, retain_graph=True, **_LOOSE))
        rest = _flat(torch.autograd.grad(others, weights, **_LOOSE))
        unit = kept / kept.norm().clamp(min=1e-30)
        self._recent = [*self._recent, unit][-self._count :]
        whole = kept + outside(rest, torch.stack(self._recent))
        sizes = [weight.numel() for weight in weights]
        for weight, part in zip(weights, whole.split(sizes), strict=True):
            weight.grad = part.reshape(weight.shape).clone()

    def state_dict(self) -> dict[str, Any]:
        """Gives the recent gradients, for checkpoints."""
        return {"recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._recent = list(state["recent"])


_LOOSE: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}


def _flat(gradients: tuple[Tensor, ...]) -> Float[Tensor, " n"]:
    return torch.cat([gradient.detach().flatten() for gradient in gradients])
