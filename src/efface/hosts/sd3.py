"""Stable Diffusion 3 and 3.5: a transformer that reads two CLIP encoders, T5, and a pooled row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from efface.hosts.conditions import Conditions
from efface.hosts.embedding import Embedder
from efface.hosts.host import Host, ModelNames, WidthRead, class_names, width_read
from efface.hosts.original_names import OriginalNames
from efface.hosts.readers import TextReader, layer_weights, single_layer
from efface.hosts.streams import Padded, Pooled, SideBySide
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

__all__ = ["StableDiffusion3"]

TOKENS, POOLED = "transformer/text_tokens", "transformer/pooled_text"
T5_LENGTH = 256
"""Tokens that the pipeline pads T5's prompts to; without a mask the padding changes the rows."""

_BLOCK, _PICTURE, _TEXT = (
    "transformer_blocks.{}",
    "joint_blocks.{}.x_block",
    "joint_blocks.{}.context_block",
)
"""Diffusers' blocks, and the two halves of each in the original code."""


class StableDiffusion3(Host):
    """Stable Diffusion 3 and 3.5; many run it without T5, whose rows are zeros then."""

    key: ClassVar[str] = "sd3"
    title: ClassVar[str] = "Stable Diffusion 3 and 3.5"
    tokens_read: ClassVar[Mapping[str, int]] = {"text_encoder_3": T5_LENGTH}
    trains: ClassVar[bool] = True
    names: ClassVar[ModelNames] = ModelNames("sd3", "stable-diffusion-3")
    comfy_encoders: ClassVar[Mapping[str, str]] = {
        "text_encoder": "clip_l",
        "text_encoder_2": "clip_g",
        "text_encoder_3": "t5xxl",
    }
    original_layers: ClassVar[OriginalNames | None] = OriginalNames(
        layers={
            "pos_embed.proj": "x_embedder.proj",
            "context_embedder": "context_embedder",
            "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
            "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
            "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
            "norm_out.linear": "final_layer.adaLN_modulation.1",
            "proj_out": "final_layer.linear",
            f"{_BLOCK}.norm1.linear": f"{_PICTURE}.adaLN_modulation.1",
            f"{_BLOCK}.norm1_context.linear": f"{_TEXT}.adaLN_modulation.1",
            f"{_BLOCK}.attn.norm_q": f"{_PICTURE}.attn.ln_q",
            f"{_BLOCK}.attn.norm_k": f"{_PICTURE}.attn.ln_k",
            f"{_BLOCK}.attn.norm_added_q": f"{_TEXT}.attn.ln_q",
            f"{_BLOCK}.attn.norm_added_k": f"{_TEXT}.attn.ln_k",
            f"{_BLOCK}.attn.to_out.0": f"{_PICTURE}.attn.proj",
            f"{_BLOCK}.attn.to_add_out": f"{_TEXT}.attn.proj",
            f"{_BLOCK}.attn2.norm_q": f"{_PICTURE}.attn2.ln_q",
            f"{_BLOCK}.attn2.norm_k": f"{_PICTURE}.attn2.ln_k",
            f"{_BLOCK}.attn2.to_out.0": f"{_PICTURE}.attn2.proj",
            f"{_BLOCK}.ff.net.0.proj": f"{_PICTURE}.mlp.fc1",
            f"{_BLOCK}.ff.net.2": f"{_PICTURE}.mlp.fc2",
            f"{_BLOCK}.ff_context.net.0.proj": f"{_TEXT}.mlp.fc1",
            f"{_BLOCK}.ff_context.net.2": f"{_TEXT}.mlp.fc2",
        },
        fused={
            f"{_PICTURE}.attn.qkv": tuple(f"{_BLOCK}.attn.to_{each}" for each in "qkv"),
            f"{_TEXT}.attn.qkv": tuple(f"{_BLOCK}.attn.add_{each}_proj" for each in "qkv"),
            f"{_PICTURE}.attn2.qkv": tuple(f"{_BLOCK}.attn2.to_{each}" for each in "qkv"),
        },
        swapped=("norm_out.linear",),
        swapped_last=(f"{_BLOCK}.norm1_context.linear",),
    )
    part: ClassVar[str] = "transformer"

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Goes by the transformer's class: counting encoders would take others for it."""
        return "SD3Transformer2DModel" in class_names(getattr(model, "transformer", None))

    @classmethod
    def widths_read(
        cls, tokens: Mapping[str, int], pooled: Mapping[str, int]
    ) -> Iterator[WidthRead]:
        """Both CLIP encoders side by side are filled up to T5's width."""
        clips = sum(tokens.get(name, 0) for name in ("text_encoder", "text_encoder_2"))
        t5 = tokens.get("text_encoder_3")
        yield width_read(TOKENS, clips if t5 is None else t5, exactly=t5 is not None)
        yield width_read(
            POOLED, sum(pooled.get(name, 0) for name in ("text_encoder", "text_encoder_2"))
        )

    @cached_property
    def readers(self) -> tuple[TextReader, ...]:
        """The layer that reads tokens, and the one that reads pooled text."""
        model = self.model
        clip = SideBySide(Embedder(model, layer=-2), Embedder(model, suffix="_2", layer=-2))
        pooled = single_layer(model, POOLED, (Pooled(model, "", "_2"),))
        if not self._has_t5:
            (_, weight), *_ = layer_weights(model, TOKENS).items()
            filled = Padded(clip, max(weight.shape[1], clip.width))
            return single_layer(model, TOKENS, (filled,)), pooled
        t5 = Embedder(model, suffix="_3", length=T5_LENGTH)
        return single_layer(model, TOKENS, (Padded(clip, t5.width), t5)), pooled

    @property
    def _has_t5(self) -> bool:
        return getattr(self.model, "text_encoder_3", None) is not None

    def encode(self, prompts: Sequence[str], **options: Any) -> Conditions:
        """Encodes as the pipeline does, which hands zeros in place of T5's rows without T5."""
        found = super().encode(prompts, **options)
        if self._has_t5:
            return found
        return Conditions(functional.pad(found.rows, (0, 0, 0, T5_LENGTH)), found.pooled)

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Runs the transformer."""
        network: Any = self.network
        prediction: Tensor = network(
            hidden_states=latents,
            timestep=times,
            encoder_hidden_states=conditions.rows,
            pooled_projections=conditions.pooled,
        )[0]
        return prediction

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``StableDiffusion3Pipeline``."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    first, second, third = tiny_tokenizer(), tiny_tokenizer(), tiny_t5_tokenizer()
    denoiser = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * CLIP_WIDTH,
        out_channels=4,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=denoiser,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=shifted(autoencoder()),
        text_encoder=clip_encoder(first, projected=True),
        tokenizer=first,
        text_encoder_2=clip_encoder(second, projected=True),
        tokenizer_2=second,
        text_encoder_3=t5_encoder(third),
        tokenizer_3=third,
    )
