"""Weights rounded to few bits, or the smallest set to zero: what people do to run a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Access, Attack
from efface.deltas.patches import DensePatch, Patch
from efface.errors import BadRequest
from efface.hosts.roles import members
from efface.revival.trials import drawn_with

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["Quantisation", "pruned", "quantised"]


@dataclass(frozen=True, kw_only=True)
class Quantisation(Attack):
    """Rounds the edited denoiser's weights, then prunes them: a small edit may round away.

    Nobody has to mean it. Matrices and kernels are changed, row by row; norms and biases stay.
    Layers that stand beside the weights (a gate's) are not rounded. On the unedited model it only
    says that the rounded model still draws the concept, which for the least bits it need not.
    """

    name: ClassVar[str] = "quantisation"
    access: ClassVar[Access] = "weights"
    needs_name: ClassVar[bool] = True

    bits: tuple[int, ...] = (8, 6, 4)
    """Bits per weight, one after the other."""
    pruned: tuple[float, ...] = (0.1, 0.3, 0.5)
    """Share of each row's smallest weights that is set to zero, one after the other."""

    def __post_init__(self) -> None:
        if not all(2 <= bits <= 16 for bits in self.bits):
            raise BadRequest(f"bits is {self.bits}; give numbers from 2 to 16")
        if not all(0 <= share < 1 for share in self.pruned):
            raise BadRequest(f"pruned is {self.pruned}; give shares from 0 to below 1")
        if not (self.bits or self.pruned):
            raise BadRequest("bits and pruned are both empty; give at least one of them")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:  # noqa: ARG002
        """Draws each prompt once with each rounding, then with each pruning."""
        return drawn_with(target, self._changes(target))

    def _changes(self, target: Target) -> Iterator[Mapping[str, Any]]:
        """Gives what is changed, one thing after the other."""
        for bits, share in [*((b, 0.0) for b in self.bits), *((0, s) for s in self.pruned)]:
            added: dict[str, Patch] = {}
            for key, weight in members(target.model, "layers").items():
                if weight.ndim < 2:
                    continue
                held = weight.detach()
                new = quantised(held, bits) if bits else pruned(held, share)
                added[key] = DensePatch(new - held)
            yield {
                "added": added,
                "note": f"in {bits} bits" if bits else f"{share:.0%} of the weights pruned",
            }


def quantised(weight: Float[Tensor, "*shape"], bits: int) -> Float[Tensor, "*shape"]:
    """Rounds each row to evenly spaced values, symmetric about 0, the largest entry among them."""
    rows = weight.flatten(1)
    levels = 2 ** (bits - 1) - 1
    step = rows.abs().amax(dim=1, keepdim=True) / levels
    step = torch.where(step > 0, step, torch.ones_like(step))
    return ((rows / step).round() * step).reshape(weight.shape)


def pruned(weight: Float[Tensor, "*shape"], share: float) -> Float[Tensor, "*shape"]:
    """Sets the smallest entries of each row to zero."""
    rows = weight.flatten(1).clone()
    count = int(share * rows.shape[1])
    smallest = rows.abs().argsort(dim=1)[:, :count]
    return rows.scatter(1, smallest, 0.0).reshape(weight.shape)
