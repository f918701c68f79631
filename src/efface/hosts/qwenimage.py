"""Qwen-Image: a transformer of flows that reads Qwen 2.5 VL past a norm, from a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface.hosts.conditions import Conditions
from efface.hosts.host import GuidanceKind
from efface.hosts.language import Frame, FramedRows
from efface.hosts.language_host import LanguageHost, packed, unpacked
from efface.hosts.language_toys import LANGUAGE_WIDTH, qwen_vision_encoder, tiny_qwen_tokenizer
from efface.hosts.readers import vector
from efface.hosts.streams import Normed, TextStream
from efface.hosts.toys import built

__all__ = ["QwenImage"]

LENGTH, ROWS = 1024, 512
"""Tokens of a prompt that the pipeline gives its encoder, and rows of it that it reads unasked."""
TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""The conversation into which the pipeline puts a prompt."""
DROPPED = 34
"""Tokens of the conversation before the prompt, whose rows are not read."""


class QwenImage(LanguageHost):
    """Qwen-Image, whose transformer reads two by two latents as one token."""

    key: ClassVar[str] = "qwenimage"
    title: ClassVar[str] = "Qwen-Image"
    tokens_read: ClassVar[Mapping[str, int]] = {"text_encoder": LENGTH + DROPPED}
    trains: ClassVar[bool] = True
    transformer: ClassVar[str] = "QwenImageTransformer2DModel"
    comfy_layers: ClassVar[bool] = True

    @cached_property
    def rows(self) -> FramedRows:
        """Qwen's final rows of the prompt and of five tokens after it, which know of it."""
        before, after = getattr(self.model, "prompt_template_encode", TEMPLATE).split("{}")
        count = int(getattr(self.model, "prompt_template_encode_start_idx", DROPPED))
        frame = Frame(before, after, dropped=(0, count))
        return FramedRows(self.model, frame, length=ROWS + count)

    @cached_property
    def stream(self) -> TextStream:
        """Those rows past the transformer's norm."""
        norm = vector(self.model, self.part, "txt_norm.weight")
        return Normed(self.rows, norm, 1e-6)

    @property
    def guidance_kind(self) -> GuidanceKind:
        """A network with a guidance embedding is told the scale."""
        config: Any = self.network.config
        return "distilled" if getattr(config, "guidance_embeds", False) else "free"

    def guidance_options(self, scale: float, count: int) -> dict[str, Any]:
        """Its pipeline guides by another word, and only away from a prompt that it is given."""
        if self.guidance_kind == "distilled":
            return super().guidance_options(scale, count)
        empty = {"negative_prompt": [""] * count} if scale > 1 else {}
        return {"true_cfg_scale": scale, **empty}

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latents before they are packed."""
        config: Any = self.network.config
        edge = int(getattr(self.model, "default_sample_size", 128))
        return int(config.in_channels) // 4, edge, edge

    def guided(self, unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
        """Guides, and gives each token of latents the length that it has with the prompt alone."""
        height, width = conditional.shape[-2:]
        made, alone = (
            packed(each)
            for each in (super().guided(unconditional, conditional, scale), conditional)
        )
        made = made * (alone.norm(dim=-1, keepdim=True) / made.norm(dim=-1, keepdim=True))
        return unpacked(made, height, width)

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Packs two by two latents into a token, runs the transformer, and unpacks.

        The transformer's time goes from 0 to 1.
        """
        n, _, height, width = latents.shape
        network: Any = self.network
        prediction: Tensor = network(
            hidden_states=packed(latents),
            timestep=(times / 1000).to(latents.dtype),
            encoder_hidden_states=conditions.rows,
            encoder_hidden_states_mask=conditions.read,
            img_shapes=[[(1, height // 2, width // 2)]] * n,
        )[0]
        return unpacked(prediction, height, width)

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``QwenImagePipeline``."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    tokenizer = tiny_qwen_tokenizer(TEMPLATE)
    denoiser = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=LANGUAGE_WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    pipeline = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_autoencoder(),
        text_encoder=qwen_vision_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=denoiser,
    )
    pipeline.default_sample_size = 8
    return pipeline


def _autoencoder() -> nn.Module:
    from diffusers import AutoencoderKLQwenImage

    made: nn.Module = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return made
