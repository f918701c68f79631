"""Settings of the training loop, which every method that trains shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from efface.errors import BadRequest, require_positive
from efface.training.gradients import SaliencyScope

__all__ = ["Training"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of the loop; methods inherit them and give defaults of their own."""

    steps: int = 200
    """Optimiser steps. More erase deeper and disturb the rest more."""
    learning_rate: float = 1e-5
    """Step size of the optimiser."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the step size changes: not at all, or down to a hundredth along a cosine."""
    batch: int = 4
    """Samples per step. Lower it when memory runs out, and raise accumulate instead."""
    optimiser: Literal["adam", "adamw", "adam_l2", "sgd"] = "adam"
    """Adam; AdamW, where weight_decay pulls the weights; Adam that adds it to the gradient; or
    gradient descent with momentum, which adds it, too."""
    weight_decay: float = 0.0
    """Pull of the weights to zero, of all but adam."""
    betas: tuple[float, float] = (0.9, 0.999)
    """How much of their past the optimiser's averages of gradients and of their squares keep; the
    first is the momentum of sgd."""
    epsilon: float = 1e-8
    """What the optimiser adds to the root of the squares; gradients far below it hardly count."""
    clip: float = 0.0
    """Longest gradient over all parameters; longer ones are shortened. 0: no limit."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    saliency: float = 1.0
    """Share of the weights that may change: those where the loss is steepest (SalUn). 1: all.
    Tensors without a gradient at the start, as the inner factors of low-rank layers, stay free."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the network computes in; weights and steps stay in float32."""
    recompute: bool = False
    """Compute activations twice instead of keeping them: less memory, more time."""

    saliency_scope: ClassVar[SaliencyScope] = "all"
    """Over what the share is taken: all weights together, or each tensor."""

    def __post_init__(self) -> None:
        require_positive(self, "steps", "learning_rate", "batch", "accumulate", "epsilon")
        for name in ("clip", "weight_decay"):
            if getattr(self, name) < 0:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must not be negative")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise BadRequest(f"betas are {self.betas}; each must be at least 0 and below 1")
        if not 0 < self.saliency <= 1:
            raise BadRequest(f"saliency is {self.saliency}; it must be above 0 and at most 1")
