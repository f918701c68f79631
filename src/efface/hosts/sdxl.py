"""Stable Diffusion XL: a U-Net that reads two CLIP encoders side by side, and one pooled row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.hosts.conditions import Conditions
from efface.hosts.embedding import Embedder
from efface.hosts.host import Host, ModelNames, WidthRead, width_read
from efface.hosts.readers import TextReader, key_values, single_layer
from efface.hosts.sd import reads_by_cross_attention
from efface.hosts.streams import Pooled, SideBySide
from efface.hosts.toys import CLIP_WIDTH, autoencoder, built, clip_encoder, tiny_tokenizer

__all__ = ["StableDiffusionXL"]

KEYS_AND_VALUES, POOLED = "unet/key_value", "unet/pooled_text"


class StableDiffusionXL(Host):
    """Stable Diffusion XL, which is told the size of the picture beside the prompt."""

    key: ClassVar[str] = "sdxl"
    title: ClassVar[str] = "Stable Diffusion XL"
    trains: ClassVar[bool] = True
    names: ClassVar[ModelNames] = ModelNames("sdxl_base_v1-0", "stable-diffusion-xl-v1-base")
    comfy_encoders: ClassVar[Mapping[str, str]] = {
        "text_encoder": "clip_l",
        "text_encoder_2": "clip_g",
    }
    kohya_encoders: ClassVar[Mapping[str, str]] = {
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }
    unread_layers: ClassVar[Mapping[str, int]] = {"text_encoder": 1}
    original_names: ClassVar[bool] = True

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Differs from Stable Diffusion 1.x and 2.x by a second text encoder."""
        return reads_by_cross_attention(model) and bool(getattr(model, "text_encoder_2", None))

    @classmethod
    def widths_read(
        cls, tokens: Mapping[str, int], pooled: Mapping[str, int]
    ) -> Iterator[WidthRead]:
        """Cross-attention reads both encoders; the pooled text comes with the picture's size."""
        yield width_read(
            KEYS_AND_VALUES, tokens.get("text_encoder", 0) + tokens.get("text_encoder_2", 0)
        )
        yield width_read(POOLED, pooled.get("text_encoder_2", 0), exactly=False)

    @cached_property
    def readers(self) -> tuple[TextReader, ...]:
        """Keys and values, and the layer that reads pooled text."""
        model = self.model
        both = SideBySide(Embedder(model, layer=-2), Embedder(model, suffix="_2", layer=-2))
        pooled = single_layer(model, POOLED, (Pooled(model, "_2"),), wider=True)
        return key_values(model, both), pooled

    def encode(self, prompts: Sequence[str], **options: Any) -> Conditions:
        """Encodes as the pipeline does, which may give zeros for an empty prompt."""
        found = super().encode(prompts, **options)
        if not getattr(self.model.config, "force_zeros_for_empty_prompt", False):
            return found
        there = torch.tensor([bool(prompt) for prompt in prompts]).to(found.rows)
        return Conditions(
            found.rows * there[:, None, None],
            None if found.pooled is None else found.pooled * there[:, None],
        )

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Runs the U-Net, told of a whole picture of the latents' size."""
        scale = int(self.model.vae_scale_factor)
        height, width = latents.shape[-2] * scale, latents.shape[-1] * scale
        # Original size, crop and target size.
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=latents.dtype)
        sizes = sizes.to(latents.device).expand(len(latents), -1)
        network: Any = self.network
        prediction: Tensor = network(
            latents,
            times,
            encoder_hidden_states=conditions.rows,
            added_cond_kwargs={"text_embeds": conditions.pooled, "time_ids": sizes},
        )[0]
        return prediction

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``StableDiffusionXLPipeline``."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    first, second = tiny_tokenizer(), tiny_tokenizer(pad="!")
    denoiser = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=2 * CLIP_WIDTH,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=CLIP_WIDTH + 6 * 8,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(first, projected=False),
        text_encoder_2=clip_encoder(second, projected=True),
        tokenizer=first,
        tokenizer_2=second,
        unet=denoiser,
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )
