"""Lumina 2: a transformer of flows that reads Gemma 2 past a norm, with a system prompt before."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.hosts.conditions import Conditions
from efface.hosts.host import shifted_by
from efface.hosts.language import BARE, Frame, FramedRows
from efface.hosts.language_host import LanguageHost
from efface.hosts.language_toys import LANGUAGE_WIDTH, gemma_encoder, tiny_gemma_tokenizer
from efface.hosts.original_names import OriginalNames
from efface.hosts.readers import vector
from efface.hosts.streams import Normed, TextStream
from efface.hosts.toys import autoencoder, built, shifted

__all__ = ["Lumina2"]

LENGTH = 256
"""Tokens that the pipeline reads, its system prompt among them."""
SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of "
    "image-text alignment based on textual prompts or user prompts."
)
"""What the pipeline puts before prompts, unless it is told otherwise."""
START = " <Prompt Start> "
_BLOCKS = ("layers", "noise_refiner", "context_refiner")
_IN_BLOCK = {
    "attn.to_out.0": "attention.out",
    "attn.norm_q": "attention.q_norm",
    "attn.norm_k": "attention.k_norm",
    "feed_forward.linear_1": "feed_forward.w1",
    "feed_forward.linear_2": "feed_forward.w2",
    "feed_forward.linear_3": "feed_forward.w3",
    "norm1.linear": "adaLN_modulation.1",
    "norm1.norm": "attention_norm1",
    "norm2": "attention_norm2",
    "ffn_norm1": "ffn_norm1",
    "ffn_norm2": "ffn_norm2",
}
"""Layers of a block by diffusers' and by the original names."""


class Lumina2(LanguageHost):
    """Lumina 2, whose layer after a norm reads Gemma's last but one states."""

    key: ClassVar[str] = "lumina2"
    title: ClassVar[str] = "Lumina 2"
    tokens_read: ClassVar[Mapping[str, int]] = {"text_encoder": LENGTH}
    trains: ClassVar[bool] = True
    transformer: ClassVar[str] = "Lumina2Transformer2DModel"
    comfy_layers: ClassVar[bool] = True
    comfy_own: ClassVar[tuple[str, ...]] = ("",)
    original_layers: ClassVar[OriginalNames | None] = OriginalNames(
        layers={
            "x_embedder": "x_embedder",
            "time_caption_embed.caption_embedder.{}": "cap_embedder.{}",
            "time_caption_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_caption_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
            "norm_out.linear_1": "final_layer.adaLN_modulation.1",
            "norm_out.linear_2": "final_layer.linear",
            "context_refiner.{}.norm1": "context_refiner.{}.attention_norm1",
            **{
                f"{blocks}.{{}}.{ours}": f"{blocks}.{{}}.{theirs}"
                for blocks in _BLOCKS
                for ours, theirs in _IN_BLOCK.items()
            },
        },
        fused={
            f"{blocks}.{{}}.attention.qkv": tuple(f"{blocks}.{{}}.attn.to_{each}" for each in "qkv")
            for blocks in _BLOCKS
        },
    )

    @cached_property
    def rows(self) -> FramedRows:
        """Gemma's rows of the system prompt, then of the prompt; there is no end token."""
        system = getattr(self.model, "system_prompt", SYSTEM)
        return FramedRows(self.model, Frame(system + START), length=LENGTH, layers=(-2,))

    @cached_property
    def unconditional(self) -> FramedRows:
        """The begin token alone, which is every prompt's first row."""
        return FramedRows(self.model, BARE, length=LENGTH, layers=(-2,))

    @cached_property
    def stream(self) -> TextStream:
        """Those rows past the transformer's norm."""
        norm = vector(self.model, self.part, "time_caption_embed.caption_embedder.0.weight")
        epsilon = float(getattr(self.network.config, "norm_eps", 1e-5))
        return Normed(self.rows, norm, epsilon)

    def shift(self, config: Any) -> float:
        """Counts channels in place of the picture's tokens, as the pipeline does."""
        return shifted_by(config, self.latent_shape[0])

    def guided(self, unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
        """Guides, and gives each line of latents the length that it has with the prompt alone."""
        made = super().guided(unconditional, conditional, scale)
        sizes = (
            torch.linalg.vector_norm(each, dim=-1, keepdim=True) for each in (conditional, made)
        )
        before, after = sizes
        rescaled: Tensor = made * (before / after)
        return rescaled

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Runs the transformer, whose time goes from noise at 0 to the picture at 1."""
        network: Any = self.network
        prediction: Tensor = network(
            hidden_states=latents,
            timestep=(1 - times / 1000).to(latents.dtype),
            encoder_hidden_states=conditions.rows,
            encoder_attention_mask=conditions.read,
        )[0]
        return -prediction

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``Lumina2Pipeline``."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        Lumina2Pipeline,
        Lumina2Transformer2DModel,
    )

    tokenizer = tiny_gemma_tokenizer(SYSTEM)
    denoiser = Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(LENGTH, 16, 16),
        cap_feat_dim=LANGUAGE_WIDTH,
    )
    return Lumina2Pipeline(
        transformer=denoiser,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=shifted(autoencoder()),
        text_encoder=gemma_encoder(tokenizer),
        tokenizer=tokenizer,
    )
