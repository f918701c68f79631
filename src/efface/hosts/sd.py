"""Stable Diffusion 1.x and 2.x: a U-Net whose cross-attention reads one CLIP encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface.hosts.conditions import Conditions
from efface.hosts.embedding import Embedder
from efface.hosts.host import Host, ModelNames, WidthRead, width_read
from efface.hosts.readers import TextReader, key_values
from efface.hosts.shards import folder_json
from efface.hosts.toys import LENGTH, autoencoder, built, tiny_tokenizer

__all__ = ["StableDiffusion1", "StableDiffusion2", "reads_by_cross_attention"]

KEYS_AND_VALUES = "unet/key_value"


class StableDiffusion1(Host):
    """Stable Diffusion 1.x: convolutions around the attention blocks."""

    key: ClassVar[str] = "sd1"
    title: ClassVar[str] = "Stable Diffusion 1.x"
    trains: ClassVar[bool] = True
    names: ClassVar[ModelNames] = ModelNames("sd_v1", "stable-diffusion-v1")
    comfy_encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "clip_l"}
    kohya_encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "lora_te"}
    linear: ClassVar[bool] = False
    """Whether projections around attention blocks are linear layers."""

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Widths do not matter, so that small models of a layout count as that layout."""
        if not reads_by_cross_attention(model) or getattr(model, "text_encoder_2", None):
            return False
        return bool(getattr(model.unet.config, "use_linear_projection", False)) == cls.linear

    @classmethod
    def widths_read(
        cls, tokens: Mapping[str, int], _pooled: Mapping[str, int]
    ) -> Iterator[WidthRead]:
        """Cross-attention reads the encoder's rows."""
        yield width_read(KEYS_AND_VALUES, tokens.get("text_encoder", 0))

    @cached_property
    def readers(self) -> tuple[TextReader, ...]:
        """Keys and values."""
        return (key_values(self.model, Embedder(self.model)),)

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Runs the U-Net."""
        network: Any = self.network
        prediction: Tensor = network(latents, times, encoder_hidden_states=conditions.rows)[0]
        return prediction

    @property
    def file_names(self) -> ModelNames:
        """Models that predict v, of 768 pixels in 2.x, are called otherwise."""
        version, architecture = self.names
        if not self._predicts_v():
            return self.names
        return ModelNames(f"{version}_v", architecture.replace("-512", "-768-v"))

    def _predicts_v(self) -> bool:
        """Asks the scheduler, or its file where only what reads text was opened."""
        scheduler = getattr(self.model, "scheduler", None)
        file = Path(getattr(self.model, "folder", "")) / "scheduler" / "scheduler_config.json"
        config: Any = {}
        if scheduler is not None:
            config = scheduler.config
        elif file.is_file():
            config = folder_json(file)
        return str(config.get("prediction_type")) == "v_prediction"

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``StableDiffusionPipeline``.

        The layouts differ as the real ones do: quick GELU and padding with the end token in 1.x;
        GELU, padding with another token, linear projections and a fixed head width in 2.x, whose
        text encoder is used up to its last but one layer by having been saved without the last.
        """
        order = ("text_encoder", "vae", "unet")
        return built(lambda: _pipeline(linear=cls.linear), seed=seed, dtype=dtype, order=order)


class StableDiffusion2(StableDiffusion1):
    """Stable Diffusion 2.x: linear projections around the attention blocks."""

    key: ClassVar[str] = "sd2"
    title: ClassVar[str] = "Stable Diffusion 2.x"
    names: ClassVar[ModelNames] = ModelNames("sd_v2", "stable-diffusion-v2-512")
    comfy_encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "clip_h"}
    linear: ClassVar[bool] = True


def reads_by_cross_attention(model: Any) -> bool:
    """Says whether a model has a U-Net whose cross-attention reads text encoders directly.

    Others project what they read from elsewhere first, such as pictures or T5.
    """
    if getattr(model, "transformer", None) is not None:
        return False
    config = getattr(getattr(model, "unet", None), "config", None)
    if config is None or not hasattr(config, "cross_attention_dim"):
        return False
    return getattr(config, "encoder_hid_dim_type", None) is None


def _pipeline(*, linear: bool) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    tokenizer = tiny_tokenizer(pad="!" if linear else "<|endoftext|>")
    return StableDiffusionPipeline(
        text_encoder=_text_encoder(tokenizer, linear=linear),
        vae=autoencoder(),
        unet=_denoiser(linear=linear),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _text_encoder(tokenizer: Any, *, linear: bool) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder: nn.Module = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            hidden_act="gelu" if linear else "quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return encoder


def _denoiser(*, linear: bool) -> nn.Module:
    from diffusers import UNet2DConditionModel

    denoiser: nn.Module = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        # In 1.x this is the number of heads; in 2.x a list, so that the width per head is fixed.
        attention_head_dim=(2, 4) if linear else 4,
        use_linear_projection=linear,
    )
    return denoiser
