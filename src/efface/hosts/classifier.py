"""Image classifiers of transformers: one name for each picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from efface.hosts.vision import VisionHost, VisionModel, labels_of
from efface.hosts.vision_toys import SIDE, TOY_VIT, Resized, toy_labels, toy_network

__all__ = ["Classifier"]


class Classifier(VisionHost):
    """A network whose head reads one vector a picture."""

    key: ClassVar[str] = "classifier"
    title: ClassVar[str] = "image classifiers"
    heads: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "ViTForImageClassification": ("classifier",),
        "DeiTForImageClassification": ("classifier",),
        "CLIPForImageClassification": ("classifier",),
        "Dinov2ForImageClassification": ("classifier",),
        "SiglipForImageClassification": ("classifier",),
        "SwinForImageClassification": ("classifier",),
        "ResNetForImageClassification": (r"classifier\.1",),
        "ConvNextForImageClassification": ("classifier",),
        "ConvNextV2ForImageClassification": ("classifier",),
    }

    @classmethod
    def toy(
        cls, architecture: str = "ViTForImageClassification", *, seed: int = 0, classes: int = 6
    ) -> VisionModel:
        """See `VisionHost.toy`."""
        import transformers

        config = _toy_config(architecture, classes)
        network = toy_network(lambda: getattr(transformers, architecture)(config), seed)
        return VisionModel(network, Resized(SIDE), labels_of(config))

    def both(
        self, pixels: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n dim"]]:
        """Gives logits and features, which are what the head reads, of prepared pictures."""
        with self._head_inputs() as seen:
            logits = self.network(pixel_values=pixels).logits
        return logits, seen[0]

    def logits(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Gives logits of prepared pictures."""
        found: Tensor = self.network(pixel_values=pixels).logits
        return found

    def features(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Gives what the head reads of prepared pictures."""
        return self.both(pixels)[1]

    def losses(
        self, logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Gives the loss of each picture as training has it: cross-entropy."""
        return functional.cross_entropy(logits, labels, reduction="none")

    def largest_loss(self) -> float:
        """Gives the loss of a guess among all classes, from which on nothing is recognised."""
        return float(torch.log(torch.tensor(float(self.classes))))


_NESTED = ("CLIPForImageClassification", "SiglipForImageClassification")


def _toy_config(architecture: str, classes: int) -> Any:
    import transformers

    named = toy_labels("class", classes)
    family = architecture.removesuffix("ForImageClassification")
    config = getattr(transformers, f"{family}Config")
    if architecture in _NESTED:
        vision = getattr(transformers, f"{family}VisionConfig")(**TOY_VIT).to_dict()
        return config(vision_config=vision, **named)
    if family == "Swin":
        return config(
            image_size=SIDE, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2],
            window_size=2, **named,
        )  # fmt: skip
    if family == "ResNet":
        return config(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **named
        )
    if family.startswith("ConvNext"):
        return config(patch_size=2, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, **named)
    own = dict(TOY_VIT)
    if family == "Dinov2":  # It has a ratio in place of a width.
        del own["intermediate_size"]
    return config(**own, **named)
