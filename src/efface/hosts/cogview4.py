"""CogView4: a transformer of flows that reads GLM without a mask, padding before the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.hosts.conditions import Conditions
from efface.hosts.language import Frame, FramedRows
from efface.hosts.language_host import LanguageHost, by_length
from efface.hosts.language_toys import LANGUAGE_WIDTH, glm_encoder, tiny_glm_tokenizer
from efface.hosts.toys import autoencoder, built, shifted

__all__ = ["CogView4"]

LENGTH = 1024
"""Tokens that the pipeline reads."""
MULTIPLE = 16
"""Padding makes the tokens a multiple of this; it comes first, and rows after it know of it."""


class CogView4(LanguageHost):
    """CogView4, whose one layer reads GLM's last but one states."""

    key: ClassVar[str] = "cogview4"
    title: ClassVar[str] = "CogView4"
    tokens_read: ClassVar[Mapping[str, int]] = {"text_encoder": LENGTH}
    trains: ClassVar[bool] = True
    transformer: ClassVar[str] = "CogView4Transformer2DModel"

    @cached_property
    def rows(self) -> FramedRows:
        """GLM's rows of padding, two begin tokens, and the prompt; there is no end token."""
        return FramedRows(self.model, Frame(multiple=MULTIPLE), length=LENGTH, layers=(-2,))

    def set_steps(self, scheduler: Any, steps: int, **options: Any) -> None:
        """Spaces times evenly down to 1, in whole numbers."""
        most = scheduler.config.num_train_timesteps
        times = torch.linspace(most, 1.0, steps, dtype=torch.float64).long().tolist()
        sigmas = [time / most for time in times]
        scheduler.set_timesteps(timesteps=[float(t) for t in times], sigmas=sigmas, **options)

    def shift(self, config: Any) -> float:
        """Grows with the edge of the picture."""
        edge = (self.latent_shape[1] * self.latent_shape[2]) ** 0.5
        patches = edge / int(getattr(self.network.config, "patch_size", 2))
        base = float(config.get("base_image_seq_len", 256)) ** 0.5
        return float(
            patches / base * config.get("max_shift", 0.75) + config.get("base_shift", 0.25)
        )

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Runs the transformer, which is told the size of the whole picture."""
        factor = int(getattr(self.model, "vae_scale_factor", 8))
        network: Any = self.network

        def ask(latents: Tensor, times: Tensor, rows: Tensor) -> Tensor:
            height, width = (float(factor * edge) for edge in latents.shape[-2:])
            size = latents.new_tensor([[height, width]]).expand(len(latents), -1)
            prediction: Tensor = network(
                hidden_states=latents,
                encoder_hidden_states=rows,
                timestep=times,
                original_size=size,
                target_size=size,
                crop_coords=torch.zeros_like(size),
            )[0]
            return prediction

        return by_length(ask, latents, times, conditions)

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``CogView4Pipeline``."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import (
        CogView4Pipeline,
        CogView4Transformer2DModel,
        FlowMatchEulerDiscreteScheduler,
    )

    tokenizer = tiny_glm_tokenizer()
    denoiser = CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        text_embed_dim=LANGUAGE_WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        sample_size=8,
    )
    return CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=glm_encoder(tokenizer),
        vae=shifted(autoencoder()),
        transformer=denoiser,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
