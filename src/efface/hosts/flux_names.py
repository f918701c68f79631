"""Original names of the blocks that FLUX.1, FLUX.2 and Chroma have in common."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COMMON", "FEED_FORWARD", "FEED_FORWARD_2", "FUSED_DOUBLE", "FUSED_SINGLE"]

_BLOCK, _DOUBLE = "transformer_blocks.{}", "double_blocks.{}"
_ONE, _SINGLE = "single_transformer_blocks.{}", "single_blocks.{}"
"""Diffusers' blocks and those of the original code."""

COMMON: Mapping[str, str] = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "proj_out": "final_layer.linear",
    f"{_BLOCK}.attn.norm_q.weight": f"{_DOUBLE}.img_attn.norm.query_norm.scale",
    f"{_BLOCK}.attn.norm_k.weight": f"{_DOUBLE}.img_attn.norm.key_norm.scale",
    f"{_BLOCK}.attn.norm_added_q.weight": f"{_DOUBLE}.txt_attn.norm.query_norm.scale",
    f"{_BLOCK}.attn.norm_added_k.weight": f"{_DOUBLE}.txt_attn.norm.key_norm.scale",
    f"{_BLOCK}.attn.to_out.0": f"{_DOUBLE}.img_attn.proj",
    f"{_BLOCK}.attn.to_add_out": f"{_DOUBLE}.txt_attn.proj",
    f"{_ONE}.attn.norm_q.weight": f"{_SINGLE}.norm.query_norm.scale",
    f"{_ONE}.attn.norm_k.weight": f"{_SINGLE}.norm.key_norm.scale",
}
"""Layers outside of blocks and attention, of all three."""
FEED_FORWARD: Mapping[str, str] = {
    f"{_BLOCK}.ff.net.0.proj": f"{_DOUBLE}.img_mlp.0",
    f"{_BLOCK}.ff.net.2": f"{_DOUBLE}.img_mlp.2",
    f"{_BLOCK}.ff_context.net.0.proj": f"{_DOUBLE}.txt_mlp.0",
    f"{_BLOCK}.ff_context.net.2": f"{_DOUBLE}.txt_mlp.2",
    f"{_ONE}.proj_out": f"{_SINGLE}.linear2",
}
"""Of FLUX.1 and Chroma."""
FEED_FORWARD_2: Mapping[str, str] = {
    f"{_BLOCK}.ff.linear_in": f"{_DOUBLE}.img_mlp.0",
    f"{_BLOCK}.ff.linear_out": f"{_DOUBLE}.img_mlp.2",
    f"{_BLOCK}.ff_context.linear_in": f"{_DOUBLE}.txt_mlp.0",
    f"{_BLOCK}.ff_context.linear_out": f"{_DOUBLE}.txt_mlp.2",
    f"{_ONE}.attn.to_qkv_mlp_proj": f"{_SINGLE}.linear1",
    f"{_ONE}.attn.to_out": f"{_SINGLE}.linear2",
}
"""Of FLUX.2, whose single blocks are fused in diffusers, too."""
FUSED_DOUBLE: Mapping[str, tuple[str, ...]] = {
    f"{_DOUBLE}.img_attn.qkv": tuple(f"{_BLOCK}.attn.to_{each}" for each in "qkv"),
    f"{_DOUBLE}.txt_attn.qkv": tuple(f"{_BLOCK}.attn.add_{each}_proj" for each in "qkv"),
}
FUSED_SINGLE: Mapping[str, tuple[str, ...]] = {
    f"{_SINGLE}.linear1": (*(f"{_ONE}.attn.to_{each}" for each in "qkv"), f"{_ONE}.proj_mlp"),
}
