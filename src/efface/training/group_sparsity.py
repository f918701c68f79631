"""Groups of weights that are switched off together: their lengths, and steps that shrink them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.training.hooks import Counter

__all__ = ["Shrinking", "group_norms", "shrunk"]


def group_norms(groups: Sequence[Sequence[Tensor]]) -> Float[Tensor, " groups"]:
    """Gives the length of each group of weights taken together; its slope at zero is zero."""
    squares = [torch.stack([(weight**2).sum() for weight in group]).sum() for group in groups]
    return torch.stack([torch.where(one > 0, one.clamp(min=1e-30).sqrt(), one) for one in squares])


def shrunk(group: Sequence[Tensor], amount: float) -> list[Tensor]:
    """Applies the proximal step of ``amount * |g|``: shorter by that much, or else zero."""
    length = float(group_norms([group])[0].detach())
    factor = max(0.0, 1 - amount / length) if length > 0 else 0.0
    return [weight.detach() * factor for weight in group]


class Shrinking(Counter):
    """After every step from one on, shrinks each group's weights together.

    Args:
        groups: weights that are switched off together.
        amount: how much shorter a group gets; 0: not at all, and steps are only counted.
        begins: the first step after which they shrink.
    """

    def __init__(
        self, groups: Sequence[Sequence[nn.Parameter]], *, amount: float, begins: float
    ) -> None:
        super().__init__()
        self._groups, self._amount, self._begins = groups, amount, begins

    @property
    def set_in(self) -> bool:
        """Whether the first step after which they shrink has come."""
        return self.done >= self._begins

    def after_step(self) -> None:
        """Shrinks, and counts."""
        if self._amount and self.set_in:
            for group in self._groups:
                for weight, value in zip(group, shrunk(group, self._amount), strict=True):
                    weight.data.copy_(value)
        super().after_step()
