"""Z-Image: a transformer of flows that reads Qwen 3 past a norm, from a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.hosts.conditions import Conditions
from efface.hosts.language import FramedRows
from efface.hosts.language_host import LanguageHost, conversation
from efface.hosts.language_toys import LANGUAGE_WIDTH, qwen3_encoder, tiny_qwen_tokenizer
from efface.hosts.original_names import OriginalNames
from efface.hosts.readers import vector
from efface.hosts.streams import Normed, TextStream
from efface.hosts.toys import autoencoder, built, shifted

__all__ = ["ZImage"]

LENGTH = 512
"""Tokens that the pipeline reads, the conversation among them."""
_BLOCKS = ("layers", "noise_refiner", "context_refiner")
_IN_BLOCK = {
    "attention.to_out.0": "attention.out",
    "attention.norm_q": "attention.q_norm",
    "attention.norm_k": "attention.k_norm",
    **{
        name: name
        for name in (
            "attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2", "adaLN_modulation.0",
            "feed_forward.w1", "feed_forward.w2", "feed_forward.w3",
        )
    },
}  # fmt: skip
"""Layers of a block by diffusers' and by the original names."""


class ZImage(LanguageHost):
    """Z-Image, whose layer after a norm reads Qwen's last but one states."""

    key: ClassVar[str] = "zimage"
    title: ClassVar[str] = "Z-Image"
    tokens_read: ClassVar[Mapping[str, int]] = {"text_encoder": LENGTH}
    trains: ClassVar[bool] = True
    transformer: ClassVar[str] = "ZImageTransformer2DModel"
    comfy_layers: ClassVar[bool] = True
    original_layers: ClassVar[OriginalNames | None] = OriginalNames(
        layers={
            "x_pad_token": "x_pad_token",
            "cap_pad_token": "cap_pad_token",
            "all_x_embedder.2-1": "x_embedder",
            "all_final_layer.2-1.linear": "final_layer.linear",
            "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
            "cap_embedder.{}": "cap_embedder.{}",
            "t_embedder.mlp.{}": "t_embedder.mlp.{}",
            **{
                f"{blocks}.{{}}.{ours}": f"{blocks}.{{}}.{theirs}"
                for blocks in _BLOCKS
                for ours, theirs in _IN_BLOCK.items()
            },
        },
        fused={
            f"{blocks}.{{}}.attention.qkv": tuple(
                f"{blocks}.{{}}.attention.to_{each}" for each in "qkv"
            )
            for blocks in _BLOCKS
        },
    )

    @cached_property
    def rows(self) -> FramedRows:
        """Qwen's rows of a conversation of one question, up to where the answer would begin."""
        frame = conversation(self.model.tokenizer, enable_thinking=True)
        return FramedRows(self.model, frame, length=LENGTH, layers=(-2,))

    @cached_property
    def stream(self) -> TextStream:
        """Those rows past the transformer's norm."""
        norm = vector(self.model, self.part, "cap_embedder.0.weight")
        epsilon = float(getattr(self.network.config, "norm_eps", 1e-5))
        return Normed(self.rows, norm, epsilon)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The pipeline's own size: the config knows none."""
        config: Any = self.network.config
        edge = int(getattr(self.model, "default_sample_size", 128))
        return int(config.in_channels), edge, edge

    def guided(self, unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
        """Counts the scale from the prompt's prediction on, so that 0 is the prompt alone."""
        return conditional + scale * (conditional - unconditional)

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Runs the transformer, whose time goes from noise at 0 to the picture at 1."""
        network: Any = self.network
        read = conditions.read
        captions = [
            rows if read is None else rows[read[sample]]
            for sample, rows in enumerate(conditions.rows)
        ]
        predictions: list[Tensor] = network(
            list(latents.unsqueeze(2)), ((1000 - times) / 1000).to(latents.dtype), captions
        )[0]
        return -torch.stack(list(predictions)).squeeze(2)

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``ZImagePipeline``."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )

    tokenizer = tiny_qwen_tokenizer()
    denoiser = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=LANGUAGE_WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[LENGTH + 64, 16, 16],
    )
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=shifted(autoencoder()),
        text_encoder=qwen3_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=denoiser,
    )
    pipeline.default_sample_size = 8
    return pipeline
