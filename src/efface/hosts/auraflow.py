"""AuraFlow: a transformer of flows that reads one T5, whose padding is zeros."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.hosts.conditions import Conditions
from efface.hosts.embedding import Embedder
from efface.hosts.one_layer import OneLayerHost
from efface.hosts.streams import Emptied, TextStream
from efface.hosts.toys import T5_WIDTH, autoencoder, built, t5_encoder, tiny_t5_tokenizer

__all__ = ["AuraFlow"]

LENGTH = 256
"""Tokens that the pipeline pads prompts to."""
_USUAL_SIDE = 1024
"""Pixels of a side that the pipeline draws unasked."""


class AuraFlow(OneLayerHost):
    """AuraFlow, whose one layer without a bias reads T5; closed forms edit it."""

    key: ClassVar[str] = "auraflow"
    title: ClassVar[str] = "AuraFlow"
    trains: ClassVar[bool] = True
    transformer: ClassVar[str] = "AuraFlowTransformer2DModel"

    @cached_property
    def stream(self) -> TextStream:
        """T5's rows, zeros in place of padding."""
        return Emptied(Embedder(self.model, length=LENGTH, masked=True))

    @property
    def picture_side(self) -> int | None:
        """What the table of places holds, where that is less than the pipeline's usual 1024."""
        config: Any = self.network.config
        places = math.isqrt(int(config.pos_embed_max_size))
        side = places * int(config.patch_size) * int(self.model.vae_scale_factor)
        return side if side < _USUAL_SIDE else None

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Runs the transformer, whose time goes from 0 to 1."""
        network: Any = self.network
        prediction: Tensor = network(
            latents,
            encoder_hidden_states=conditions.rows,
            timestep=(times / 1000).to(latents.dtype),
            return_dict=False,
        )[0]
        return prediction

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds an ``AuraFlowPipeline``."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import (
        AuraFlowPipeline,
        AuraFlowTransformer2DModel,
        FlowMatchEulerDiscreteScheduler,
    )

    tokenizer = tiny_t5_tokenizer()
    denoiser = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=16,
    )
    return AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer, kind="UMT5"),
        vae=autoencoder(),
        transformer=denoiser,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
