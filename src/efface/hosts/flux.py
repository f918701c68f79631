"""FLUX.1: a transformer of flows that reads T5 and a pooled row of CLIP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.hosts.conditions import Conditions
from efface.hosts.embedding import Embedder
from efface.hosts.flux_names import COMMON, FEED_FORWARD, FUSED_DOUBLE, FUSED_SINGLE
from efface.hosts.host import (
    GuidanceKind,
    Host,
    ModelNames,
    WidthRead,
    class_names,
    evenly_spaced,
    width_read,
)
from efface.hosts.original_names import OriginalNames
from efface.hosts.readers import TextReader, single_layer
from efface.hosts.streams import Pooled
from efface.hosts.toys import (
    CLIP_WIDTH,
    T5_WIDTH,
    autoencoder,
    built,
    clip_encoder,
    shifted,
    t5_encoder,
    tiny_t5_tokenizer,
    tiny_tokenizer,
)

__all__ = ["Flux"]

TOKENS, POOLED = "transformer/text_tokens", "transformer/pooled_text"
T5_LENGTH = 512
"""Tokens that the pipeline pads T5's prompts to; without a mask the padding changes the rows."""
DISTILLED_GUIDANCE = 3.5
"""What the guidance embedding is told; the pipeline's own default."""


class Flux(Host):
    """FLUX.1, whose transformer reads two by two latents as one token."""

    key: ClassVar[str] = "flux"
    title: ClassVar[str] = "FLUX.1"
    tokens_read: ClassVar[Mapping[str, int]] = {"text_encoder_2": T5_LENGTH}
    trains: ClassVar[bool] = True
    guides_in_pairs: ClassVar[bool] = False
    names: ClassVar[ModelNames] = ModelNames("flux1", "flux-1-dev")
    comfy_encoders: ClassVar[Mapping[str, str]] = {
        "text_encoder": "clip_l",
        "text_encoder_2": "t5xxl",
    }
    original_layers: ClassVar[OriginalNames | None] = OriginalNames(
        layers={
            **COMMON,
            **FEED_FORWARD,
            "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
            "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
            "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
            "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
            "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
            "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
            "norm_out.linear": "final_layer.adaLN_modulation.1",
            "transformer_blocks.{}.norm1.linear": "double_blocks.{}.img_mod.lin",
            "transformer_blocks.{}.norm1_context.linear": "double_blocks.{}.txt_mod.lin",
            "single_transformer_blocks.{}.norm.linear": "single_blocks.{}.modulation.lin",
        },
        fused={**FUSED_DOUBLE, **FUSED_SINGLE},
        swapped=("norm_out.linear",),
    )
    part: ClassVar[str] = "transformer"

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Goes by the transformer's class."""
        return "FluxTransformer2DModel" in class_names(getattr(model, "transformer", None))

    @classmethod
    def widths_read(
        cls, tokens: Mapping[str, int], pooled: Mapping[str, int]
    ) -> Iterator[WidthRead]:
        """T5 gives the tokens, CLIP the pooled row."""
        yield width_read(TOKENS, tokens.get("text_encoder_2", 0))
        yield width_read(POOLED, pooled.get("text_encoder", 0))

    @property
    def guidance_kind(self) -> GuidanceKind:
        """The dev network is told the scale; schnell's reads none."""
        config: Any = self.network.config
        return "distilled" if getattr(config, "guidance_embeds", False) else "none"

    @property
    def file_names(self) -> ModelNames:
        """FLUX.1 schnell is told by having no guidance embedding."""
        config: Any = self.network.config
        guided = bool(getattr(config, "guidance_embeds", False))
        return self.names if guided else ModelNames(self.names.version, "flux-1-schnell")

    @cached_property
    def readers(self) -> tuple[TextReader, ...]:
        """The layer that reads tokens, and the one that reads pooled text."""
        t5 = Embedder(self.model, suffix="_2", length=T5_LENGTH)
        pooled = Pooled(self.model, "")
        return (
            single_layer(self.model, TOKENS, (t5,)),
            single_layer(self.model, POOLED, (pooled,)),
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latents before they are packed."""
        config: Any = self.network.config
        edge = 2 * int(getattr(self.model, "default_sample_size", 128) // 2)
        return int(config.in_channels) // 4, edge, edge

    def set_steps(self, scheduler: Any, steps: int, **options: Any) -> None:
        """Spaces noise levels evenly."""
        evenly_spaced(scheduler, steps, **options)

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Packs two by two latents into a token, runs the transformer, and unpacks.

        The transformer's time goes from 0 to 1.
        """
        n, c, h, w = latents.shape
        packed = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
        packed = packed.reshape(n, (h // 2) * (w // 2), 4 * c)
        positions = torch.zeros(h // 2, w // 2, 3, dtype=latents.dtype, device=latents.device)
        positions[..., 1] += torch.arange(h // 2, device=latents.device)[:, None]
        positions[..., 2] += torch.arange(w // 2, device=latents.device)[None]
        network: Any = self.network
        guidance = None
        if network.config.guidance_embeds:
            guidance = torch.full((n,), DISTILLED_GUIDANCE, device=latents.device)
        prediction: Tensor = network(
            hidden_states=packed,
            timestep=(times / 1000).to(latents.dtype),
            guidance=guidance,
            pooled_projections=conditions.pooled,
            encoder_hidden_states=conditions.rows,
            txt_ids=torch.zeros(conditions.rows.shape[1], 3).to(positions),
            img_ids=positions.reshape(-1, 3),
        )[0]
        unpacked = prediction.view(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return unpacked.reshape(n, c, h, w)

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``FluxPipeline``."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    first, second = tiny_tokenizer(), tiny_t5_tokenizer()
    denoiser = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=shifted(autoencoder()),
        text_encoder=clip_encoder(first, projected=False),
        tokenizer=first,
        text_encoder_2=t5_encoder(second),
        tokenizer_2=second,
        transformer=denoiser,
    )
    pipeline.default_sample_size = 8
    return pipeline
