"""FLUX.2 klein: a transformer of flows that reads three layers of Qwen 3, padding included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface.hosts.conditions import Conditions
from efface.hosts.flux_names import COMMON, FEED_FORWARD_2, FUSED_DOUBLE
from efface.hosts.host import GuidanceKind, WidthRead, evenly_spaced, width_read
from efface.hosts.language import FramedRows
from efface.hosts.language_host import LanguageHost, conversation
from efface.hosts.language_toys import DEEP_WIDTH, deep_qwen3_encoder, tiny_qwen_tokenizer
from efface.hosts.one_layer import TOKENS
from efface.hosts.original_names import OriginalNames
from efface.hosts.toys import built

__all__ = ["Flux2Klein", "tiny_autoencoder", "tiny_transformer"]

LENGTH = 512
"""Tokens that the pipeline pads a conversation to; the transformer reads all of them."""
LAYERS = (9, 18, 27)
"""What these layers of Qwen are given stands side by side in a row."""
DISTILLED_GUIDANCE = 4.0
"""What a guidance embedding is told; the pipelines' own default."""


class Flux2Klein(LanguageHost):
    """FLUX.2 klein, which reads Qwen 3."""

    key: ClassVar[str] = "flux2klein"
    title: ClassVar[str] = "FLUX.2 klein"
    tokens_read: ClassVar[Mapping[str, int]] = {"text_encoder": LENGTH}
    transformer: ClassVar[str] = "Flux2Transformer2DModel"
    comfy_layers: ClassVar[bool] = True
    comfy_own: ClassVar[tuple[str, ...]] = (
        "time_guidance_embed.",
        "double_stream_modulation_",
        "single_stream_modulation.",
    )
    original_layers: ClassVar[OriginalNames | None] = OriginalNames(
        layers={
            **COMMON,
            **FEED_FORWARD_2,
            "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
            "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
            "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
            "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
            "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
            "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
            "single_stream_modulation.linear": "single_stream_modulation.lin",
            "norm_out.linear": "final_layer.adaLN_modulation.1",
        },
        fused=FUSED_DOUBLE,
        swapped=("norm_out.linear",),
    )
    trains: ClassVar[bool] = True
    guides_in_pairs: ClassVar[bool] = False
    encoder: ClassVar[str] = "qwen3"
    """How its encoder's kind begins, which tells klein from dev."""
    layers: ClassVar[tuple[int, ...]] = LAYERS

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Goes by the transformer's class, and by the encoder's."""
        encoder = getattr(model, "text_encoder", None)
        kind = getattr(getattr(encoder, "config", None), "model_type", encoder)
        return super().recognises(model) and str(kind).lower().startswith(cls.encoder)

    @classmethod
    def widths_read(
        cls, tokens: Mapping[str, int], _pooled: Mapping[str, int]
    ) -> Iterator[WidthRead]:
        """The encoder gives three rows for each token."""
        yield width_read(TOKENS, len(cls.layers) * tokens.get("text_encoder", 0))

    @cached_property
    def rows(self) -> FramedRows:
        """Qwen's rows of a conversation of one question, and of padding after it."""
        frame = conversation(self.model.tokenizer, enable_thinking=False)
        frame = replace(frame, whole=True)
        return FramedRows(self.model, frame, length=LENGTH, layers=self.layers)

    @property
    def guidance_kind(self) -> GuidanceKind:
        """Pipelines that are distilled to few steps leave it out."""
        config: Any = getattr(self.model, "config", None)
        return "none" if getattr(config, "is_distilled", False) else "free"

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Two by two latents of the autoencoder are one here."""
        config: Any = self.network.config
        edge = int(getattr(self.model, "default_sample_size", 128)) // 2
        return int(config.in_channels), edge, edge

    def set_steps(self, scheduler: Any, steps: int, **options: Any) -> None:
        """Spaces noise levels evenly, shifted by the picture's size and the number of steps."""
        if "mu" in options:
            from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

            tokens = self.latent_shape[1] * self.latent_shape[2]
            options["mu"] = compute_empirical_mu(image_seq_len=tokens, num_steps=steps)
        evenly_spaced(scheduler, steps, **options)

    def shift(self, config: Any) -> float:  # noqa: ARG002
        """Gives nothing of its own: steps count, too."""
        return 0.0

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Makes each latent a token, runs the transformer, whose time goes from 0 to 1."""
        n, _, height, width = latents.shape
        count = conditions.rows.shape[1]
        spread = (torch.arange(edge) for edge in (1, height, width, 1))
        places = torch.cartesian_prod(*spread).to(latents.device)
        words = torch.cartesian_prod(*(torch.arange(edge) for edge in (1, 1, 1, count)))
        network: Any = self.network
        guidance = None
        if network.config.guidance_embeds:
            guidance = torch.full((n,), DISTILLED_GUIDANCE, device=latents.device)
        prediction: Tensor = network(
            hidden_states=latents.flatten(2).mT,
            timestep=(times / 1000).to(latents.dtype),
            guidance=guidance,
            encoder_hidden_states=conditions.rows,
            txt_ids=words.to(latents.device).expand(n, -1, -1),
            img_ids=places.expand(n, -1, -1),
            return_dict=False,
        )[0]
        return prediction.mT.reshape(n, -1, height, width)

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``Flux2KleinPipeline``."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    tokenizer = tiny_qwen_tokenizer()
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_autoencoder(),
        text_encoder=deep_qwen3_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=tiny_transformer(guided=False),
    )
    pipeline.default_sample_size = 8
    return pipeline


def tiny_transformer(*, guided: bool) -> nn.Module:
    """Builds a ``Flux2Transformer2DModel`` of one block of either kind."""
    from diffusers import Flux2Transformer2DModel

    made: nn.Module = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=len(LAYERS) * DEEP_WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guided,
    )
    return made


def tiny_autoencoder() -> nn.Module:
    """Builds an ``AutoencoderKLFlux2`` of factor 2."""
    from diffusers import AutoencoderKLFlux2

    made: nn.Module = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    return made
