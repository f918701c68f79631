"""AuraFlow: a transformer of flows that reads one T5, whose padding is zeros."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.hosts.conditions import Conditions
from efface.hosts.embedding import Embedder
from efface.hosts.one_layer import OneLayerHost
from efface.hosts.original_names import OriginalNames
from efface.hosts.streams import Emptied, TextStream
from efface.hosts.toys import T5_WIDTH, autoencoder, built, t5_encoder, tiny_t5_tokenizer

__all__ = ["AuraFlow"]

LENGTH = 256
"""Tokens that the pipeline pads prompts to."""
_JOINT, _ONE = "joint_transformer_blocks.{}", "single_transformer_blocks.{}"
_FEED_FORWARD = {
    f"{_JOINT}.ff": "double_layers.{}.mlpX",
    f"{_JOINT}.ff_context": "double_layers.{}.mlpC",
    f"{_ONE}.ff": "single_layers.{}.mlp",
}
_IN_FEED_FORWARD = {"linear_1": "c_fc1", "linear_2": "c_fc2", "out_projection": "c_proj"}
_USUAL_SIDE = 1024
"""Pixels of a side that the pipeline draws unasked."""


class AuraFlow(OneLayerHost):
    """AuraFlow, whose one layer without a bias reads T5; closed forms edit it."""

    key: ClassVar[str] = "auraflow"
    title: ClassVar[str] = "AuraFlow"
    tokens_read: ClassVar[Mapping[str, int]] = {"text_encoder": LENGTH}
    trains: ClassVar[bool] = True
    guides_in_pairs: ClassVar[bool] = False
    transformer: ClassVar[str] = "AuraFlowTransformer2DModel"
    comfy_encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "pile_t5xl"}
    original_layers: ClassVar[OriginalNames | None] = OriginalNames(
        layers={
            "register_tokens": "register_tokens",
            "pos_embed.pos_embed": "positional_encoding",
            "pos_embed.proj": "init_x_linear",
            "context_embedder": "cond_seq_linear",
            "time_step_proj.linear_1": "t_embedder.mlp.0",
            "time_step_proj.linear_2": "t_embedder.mlp.2",
            "norm_out.linear": "modF.1",
            "proj_out": "final_linear",
            f"{_JOINT}.norm1.linear": "double_layers.{}.modX.1",
            f"{_JOINT}.norm1_context.linear": "double_layers.{}.modC.1",
            f"{_JOINT}.attn.to_out.0": "double_layers.{}.attn.w2o",
            f"{_JOINT}.attn.to_add_out": "double_layers.{}.attn.w1o",
            f"{_ONE}.norm1.linear": "single_layers.{}.modCX.1",
            f"{_ONE}.attn.to_out.0": "single_layers.{}.attn.w1o",
            **{f"{_JOINT}.attn.to_{q}": f"double_layers.{{}}.attn.w2{q}" for q in "qkv"},
            **{f"{_JOINT}.attn.add_{q}_proj": f"double_layers.{{}}.attn.w1{q}" for q in "qkv"},
            **{f"{_ONE}.attn.to_{q}": f"single_layers.{{}}.attn.w1{q}" for q in "qkv"},
            **{
                f"{ours}.{layer}": f"{theirs}.{name}"
                for ours, theirs in _FEED_FORWARD.items()
                for layer, name in _IN_FEED_FORWARD.items()
            },
        },
        fused={},
        swapped=("norm_out.linear",),
    )

    @cached_property
    def stream(self) -> TextStream:
        """T5's rows, zeros in place of padding."""
        return Emptied(Embedder(self.model, length=LENGTH, masked=True))

    @property
    def picture_side(self) -> int | None:
        """What the table of places holds, where that is less than the pipeline's usual 1024."""
        config: Any = self.network.config
        places = math.isqrt(int(config.pos_embed_max_size))
        side = places * int(config.patch_size) * int(self.model.vae_scale_factor)
        return side if side < _USUAL_SIDE else None

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Runs the transformer, whose time goes from 0 to 1."""
        network: Any = self.network
        prediction: Tensor = network(
            latents,
            encoder_hidden_states=conditions.rows,
            timestep=(times / 1000).to(latents.dtype),
            return_dict=False,
        )[0]
        return prediction

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds an ``AuraFlowPipeline``."""
        return built(_pipeline, seed=seed, dtype=dtype)


def _pipeline() -> Any:
    from diffusers import (
        AuraFlowPipeline,
        AuraFlowTransformer2DModel,
        FlowMatchEulerDiscreteScheduler,
    )

    tokenizer = tiny_t5_tokenizer()
    denoiser = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=16,
    )
    return AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer, kind="UMT5"),
        vae=autoencoder(),
        transformer=denoiser,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
