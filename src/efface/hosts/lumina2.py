"""Lumina 2: a transformer of flows that reads Gemma 2 past a norm, with a system prompt before."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.hosts.conditions import Conditions
from efface.hosts.host import shifted_by
from efface.hosts.language import BARE, Frame, FramedRows
from efface.hosts.language_host import LanguageHost
from efface.hosts.language_toys import LANGUAGE_WIDTH, gemma_encoder, tiny_gemma_tokenizer
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


class Lumina2(LanguageHost):
    """Lumina 2, whose layer after a norm reads Gemma's last but one states."""

    key: ClassVar[str] = "lumina2"
    title: ClassVar[str] = "Lumina 2"
    trains: ClassVar[bool] = True
    transformer: ClassVar[str] = "Lumina2Transformer2DModel"

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
