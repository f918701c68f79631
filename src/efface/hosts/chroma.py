"""Chroma: a transformer of flows that reads T5, with a mask that is added as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.hosts.conditions import Conditions
from efface.hosts.embedding import Embedder
from efface.hosts.flux_names import COMMON, FEED_FORWARD, FUSED_DOUBLE, FUSED_SINGLE
from efface.hosts.host import evenly_spaced
from efface.hosts.language_host import packed, unpacked
from efface.hosts.one_layer import OneLayerHost
from efface.hosts.original_names import OriginalNames
from efface.hosts.streams import TextStream, Unhidden
from efface.hosts.toys import (
    T5_WIDTH,
    autoencoder,
    built,
    shifted,
    t5_encoder,
    tiny_t5_tokenizer,
)

__all__ = ["Chroma"]

LENGTH = 512
"""Tokens that the pipeline pads prompts to."""
_GUIDANCE = "distilled_guidance_layer.layers.{}"


class Chroma(OneLayerHost):
    """Chroma, whose one layer reads T5; padding is hidden from T5 and read by the transformer.

    The pipeline's mask is 1 for the prompt, its end and one token of padding, and 0 for the rest.
    The installed transformer adds it to scores of attention, so that 0 hides nothing.
    """

    key: ClassVar[str] = "chroma"
    title: ClassVar[str] = "Chroma"
    tokens_read: ClassVar[Mapping[str, int]] = {"text_encoder": LENGTH}
    trains: ClassVar[bool] = True
    guides_in_pairs: ClassVar[bool] = False
    transformer: ClassVar[str] = "ChromaTransformer2DModel"
    comfy_encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "t5xxl"}
    comfy_own: ClassVar[tuple[str, ...]] = ("distilled_guidance_layer.",)
    original_layers: ClassVar[OriginalNames | None] = OriginalNames(
        layers={
            **COMMON,
            **FEED_FORWARD,
            "distilled_guidance_layer.in_proj": "distilled_guidance_layer.in_proj",
            "distilled_guidance_layer.out_proj": "distilled_guidance_layer.out_proj",
            f"{_GUIDANCE}.linear_1": f"{_GUIDANCE}.in_layer",
            f"{_GUIDANCE}.linear_2": f"{_GUIDANCE}.out_layer",
            "distilled_guidance_layer.norms.{}.weight": "distilled_guidance_layer.norms.{}.scale",
        },
        fused={**FUSED_DOUBLE, **FUSED_SINGLE},
    )

    @cached_property
    def stream(self) -> TextStream:
        """T5's rows, of padding too."""
        return Unhidden(Embedder(self.model, length=LENGTH, masked=True))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latents before they are packed."""
        config: Any = self.network.config
        edge = int(getattr(self.model, "default_sample_size", 128))
        return int(config.in_channels) // 4, edge, edge

    def encode(self, prompts: Sequence[str], **options: Any) -> Conditions:
        """Encodes as the pipeline does, with its mask beside the rows."""
        found = super().encode(prompts, **options)
        (stream,) = self.readers[0].streams
        before = max((len(rows) for rows in (options.get("prefix") or {}).values()), default=0)
        ends = torch.tensor([stream.tokenised(prompt).end + before for prompt in prompts])
        read = torch.arange(found.rows.shape[1]) <= ends[:, None] + 1
        return replace(found, read=read.to(found.rows.device))

    def set_steps(self, scheduler: Any, steps: int, **options: Any) -> None:
        """Spaces noise levels evenly."""
        evenly_spaced(scheduler, steps, **options)

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Packs two by two latents into a token, runs the transformer, and unpacks.

        The transformer's time goes from 0 to 1.
        """
        height, width = latents.shape[-2:]
        tokens, rows = packed(latents), conditions.rows
        positions = torch.zeros(height // 2, width // 2, 3).to(latents)
        positions[..., 1] += torch.arange(height // 2).to(latents)[:, None]
        positions[..., 2] += torch.arange(width // 2).to(latents)[None]
        mask = None
        if conditions.read is not None:
            mask = torch.cat([conditions.read.to(rows), torch.ones_like(tokens[:, :, 0])], dim=1)
        network: Any = self.network
        prediction: Tensor = network(
            hidden_states=tokens,
            timestep=(times / 1000).to(latents.dtype),
            encoder_hidden_states=rows,
            txt_ids=torch.zeros(rows.shape[1], 3).to(latents),
            img_ids=positions.reshape(-1, 3),
            attention_mask=mask,
        )[0]
        return unpacked(prediction, height, width)

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``ChromaPipeline``."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import (
        ChromaPipeline,
        ChromaTransformer2DModel,
        FlowMatchEulerDiscreteScheduler,
    )

    tokenizer = tiny_t5_tokenizer()
    denoiser = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    pipeline = ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=shifted(autoencoder()),
        text_encoder=t5_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=denoiser,
    )
    pipeline.default_sample_size = 8
    return pipeline
