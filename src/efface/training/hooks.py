"""What may be changed of a training step: the rule for gradients, and a constraint afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["Counter", "Hooks", "Masked", "Plain"]


@runtime_checkable
class Hooks(Protocol):
    """What a method may change of a step; the defaults change nothing."""

    def gradients(self, terms: Mapping[str, Tensor], parameters: Mapping[str, Tensor], /) -> None:
        """Fills the parameters' ``grad`` from the terms."""

    def after_step(self) -> None:
        """Bends the parameters back to where they are allowed to be."""


class Plain:
    """Descends the sum of all terms, without a constraint; the hooks that `train` takes if none."""

    def gradients(self, terms: Mapping[str, Tensor], _: Mapping[str, Tensor], /) -> None:
        """Fills every ``grad`` in one backward pass."""
        torch.stack([*terms.values()]).sum().backward()

    def after_step(self) -> None:
        """Leaves the step as it is."""


class Counter(Plain):
    """Counts steps; it is part of a checkpoint, so that a run that resumes goes on counting."""

    def __init__(self) -> None:
        self.done = 0

    def after_step(self) -> None:
        """Counts one."""
        self.done += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Gives what a checkpoint must hold."""
        return {"done": torch.tensor(self.done)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on where `state_dict` was taken."""
        self.done = int(state["done"])


class Masked(Plain):
    """Lets only marked weights change; the others keep their bits whatever the optimiser does.

    Args:
        parameters: as they are to stay where they are not marked.
        masks: True where a weight may change, by parameter.
        originals: the same values, if someone holds them already; left out, they are copied.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        masks: Mapping[str, Tensor],
        originals: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._parameters, self._masks = parameters, masks
        self._originals = originals or {key: parameters[key].detach().clone() for key in masks}

    def after_step(self) -> None:
        """Puts the unmarked weights back."""
        for key, mask in self._masks.items():
            weight = self._parameters[key]
            weight.data.copy_(torch.where(mask, weight, self._originals[key]))
