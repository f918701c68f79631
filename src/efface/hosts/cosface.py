"""A recogniser of individuals: a ViT whose classes are directions, trained with CosFace's margin.

CosFace (arXiv 1801.09414): logits are ``s cos(embedding, class)``; in training the true class has
``s (cos - m)``, so that individuals of one class must lie closer together than they need to.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel, ViTConfig, ViTModel

__all__ = ["CosFaceConfig", "CosFaceNetwork", "Recognised"]


class CosFaceConfig(PreTrainedConfig):
    """Settings of the recogniser: its backbone's, and the scale and margin of its head."""

    model_type = "efface_cosface"
    has_no_defaults_at_init = True

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        scale: float = 32.0,
        margin: float = 0.2,
        **rest: Any,
    ) -> None:
        self.backbone = dict(backbone or {})
        self.scale = scale
        self.margin = margin
        super().__init__(**rest)


class Recognised:
    """What the recogniser says of pictures.

    Args:
        logits: ``s cos`` of each class, without the margin.
        embeddings: what the classes are compared with, not normalised.
    """

    def __init__(
        self, logits: Float[Tensor, "n classes"], embeddings: Float[Tensor, "n dim"]
    ) -> None:
        self.logits = logits
        self.embeddings = embeddings


class CosFaceHead(nn.Module):
    """Compares embeddings with one direction per class."""

    def __init__(self, width: int, classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width))
        self.scale = scale

    def forward(self, embeddings: Float[Tensor, "n dim"]) -> Float[Tensor, "n classes"]:
        """Gives ``s cos(embedding, class)``."""
        directions = functional.normalize(self.weight)
        cosines: Tensor = functional.normalize(embeddings) @ directions.T
        return self.scale * cosines


class CosFaceNetwork(PreTrainedModel):
    """A ViT whose last state of the first token is compared with the classes' directions."""

    config_class: ClassVar[type] = CosFaceConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"

    def __init__(self, config: CosFaceConfig) -> None:
        super().__init__(config)
        backbone = ViTConfig(**config.backbone)
        self.vit = ViTModel(backbone, add_pooling_layer=False)
        self.head = CosFaceHead(backbone.hidden_size, config.num_labels, config.scale)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, CosFaceHead):
            nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)

    def forward(self, pixel_values: Float[Tensor, "n 3 h w"], **_: Any) -> Recognised:
        """Recognises pictures; keywords that other models take are ignored."""
        embeddings = self.vit(pixel_values=pixel_values).last_hidden_state[:, 0]
        return Recognised(self.head(embeddings), embeddings)

    def with_margin(
        self, logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, "n classes"]:
        """Takes ``s m`` off the true class's logit, as in training."""
        taken = float(self.config.scale * self.config.margin)
        return logits - taken * functional.one_hot(labels, logits.shape[1]).to(logits)
