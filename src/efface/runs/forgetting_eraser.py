"""Settings of every method that makes a model which reads pictures forget some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from efface.contracts import Eraser
from efface.errors import BadRequest
from efface.hosts.vision import VisionHost, VisionModel
from efface.training.settings import Training

__all__ = ["CIFAR", "SMALL", "ForgettingEraser"]

CIFAR: dict[str, Any] = {"batch": 256, "epochs": 10.0}
"""What the released code of most baselines has in common, for a ResNet-18 on CIFAR-10."""
SMALL: dict[str, Any] = {
    "optimiser": "adam",
    "learning_rate": 5e-4,
    "weight_decay": 0.0,
    "batch": 48,
    "epochs": 0.0,
    "steps": 60,
    "schedule": "cosine",
}
"""Settings that fit a small ViT, such as the bundled ones, whose presets start from them."""


@dataclass(frozen=True, kw_only=True)
class ForgettingEraser(Training, Eraser[VisionModel]):
    """What all of them share: how long, on how many pictures, with which steps.

    Networks run as they do when recognising, without dropout, and batch norms keep their
    statistics, since a change of weights alone is made; retraining is the exception.
    """

    families: ClassVar[frozenset[str]] = frozenset({"classifier", "recogniser"})
    edits: ClassVar[frozenset[str]] = frozenset({"model"})
    weakened_by = ("lower learning_rate", "take fewer epochs or steps")
    strengthened_by = ("raise learning_rate", "take more epochs or steps")
    passes_over: ClassVar[Literal["forget", "retain"]] = "retain"
    """Which pictures an epoch is a pass over."""

    epochs: float = 10.0
    """Passes over the pictures; 0: as many steps as ``steps`` says."""
    batch: int = 64
    """Pictures per step, of each kind that a step takes."""
    optimiser: Literal["adam", "adamw", "adam_l2", "sgd"] = "sgd"
    """Adam; AdamW, where weight_decay pulls the weights; Adam that adds it to the gradient; or
    gradient descent with momentum, which adds it, too."""
    betas: tuple[float, float] = (0.9, 0.999)
    """How much of their past the optimiser's averages of gradients and of their squares keep; the
    first is the momentum of sgd."""
    weight_decay: float = 5e-4
    """Pull of the weights to zero, of all but adam."""
    learning_rate: float = 1e-2
    """Step size of the optimiser."""
    replay: float = 1.0
    """Share of the pictures of each class that is taken, of both kinds."""
    shots: int = 0
    """So many pictures of each class instead; 0: the share."""

    def trainable(self, host: VisionHost) -> Mapping[str, nn.Parameter]:
        """Lists the weights that are trained, by key; low-rank layers are beside them."""
        return host.weights()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 0 or self.shots < 0:
            raise BadRequest(
                f"epochs is {self.epochs} and shots is {self.shots}; neither may be negative"
            )
        if not 0 < self.replay <= 1:
            raise BadRequest(f"replay is {self.replay}; it is a share, above 0 and at most 1")
