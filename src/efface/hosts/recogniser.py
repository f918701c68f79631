"""Recognisers of individuals: classifiers whose classes are directions, with CosFace's margin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from efface.hosts.classifier import Classifier
from efface.hosts.vision import VisionModel, labels_of
from efface.hosts.vision_toys import SIDE, TOY_VIT, Resized, toy_labels, toy_network

__all__ = ["Recogniser"]


class Recogniser(Classifier):
    """Logits are without the margin; the loss is with it, as in training."""

    key: ClassVar[str] = "recogniser"
    title: ClassVar[str] = "recognisers of individuals"
    heads: ClassVar[Mapping[str, tuple[str, ...]]] = {"CosFaceNetwork": ("head",)}

    @classmethod
    def toy(
        cls, architecture: str = "CosFaceNetwork", *, seed: int = 0, classes: int = 6
    ) -> VisionModel:
        """See `VisionHost.toy`."""
        from efface.hosts.cosface import CosFaceConfig, CosFaceNetwork

        assert architecture == "CosFaceNetwork"
        config = CosFaceConfig(backbone=TOY_VIT, **toy_labels("individual", classes))
        network = toy_network(lambda: CosFaceNetwork(config), seed)
        return VisionModel(network, Resized(SIDE), labels_of(config))

    def losses(
        self, logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Gives the loss of each picture as training has it: with the margin on its own class."""
        return functional.cross_entropy(self.with_margin(logits, labels), labels, reduction="none")

    def with_margin(
        self, logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, "n classes"]:
        """Takes the margin off each picture's own class, as in training."""
        config = self.model.config
        taken = config.scale * config.margin * functional.one_hot(labels, logits.shape[1])
        found: Tensor = logits - taken.to(logits)
        return found

    def largest_loss(self) -> float:
        """Gives the loss of an individual that is like no class more than another."""
        config = self.model.config
        return math.log(self.classes) + float(config.scale * config.margin)
