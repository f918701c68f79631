"""The names that kohya's layout has for the modules of a pipeline."""

from __future__ import annotations

import re
from typing import Any

from efface.errors import BadRequest
from efface.hosts.components import canonical, component
from efface.hosts.families import host_of

__all__ = ["kohya_name", "original_name"]

_BLOCK = re.compile(
    r"^(?P<side>down_blocks|mid_block|up_blocks)(\.(?P<block>\d+))?"
    r"\.(?P<kind>[a-z]+)\.(?P<n>\d+)\.(?P<rest>.+)$"
)
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def kohya_name(model: Any, part: str, module: str) -> str:
    """Gives what a LoRA file for ComfyUI and A1111 calls a module.

    Stable Diffusion 1.x and 2.x go by diffusers' names, Stable Diffusion XL by those of the
    original code; its encoders are numbered.

    Args:
        model: the pipeline, or its folder as a host.
        part: the network, such as ``unet``.
        module: the module's path in it.

    Raises:
        BadRequest: the layout has no name for the network.
    """
    host = host_of(model)
    plain = canonical(module)
    if part == "unet":
        config: Any = component(model, part).config
        path = original_name(plain, config) if host.original_names else plain
        return f"lora_unet_{path.replace('.', '_')}"
    if part not in host.kohya_encoders:
        raise BadRequest(
            f"kohya's layout names the U-Net and the text encoders of Stable Diffusion, and the "
            f"delta changes {part}; export it with --as diffusers-lora or --as comfyui"
        )
    inside = plain if plain.startswith("text_projection") else f"text_model.{plain}"
    return f"{host.kohya_encoders[part]}_{inside.replace('.', '_')}"


def original_name(module: str, config: Any) -> str:
    """Names a module of a U-Net as the original (latent diffusion) code does.

    There the blocks of the way down are one list, with a convolution, every layer and every
    downsampler an entry; those of the way up are another list, where upsamplers share the last
    layer's entry.

    Args:
        module: its path in diffusers, such as ``down_blocks.1.attentions.0.proj_in``.
        config: the U-Net's, for the number of layers of each block.
    """
    if module in _OUTSIDE:
        return _OUTSIDE[module]
    found = _BLOCK.match(module)
    if found is None:
        return module
    place = _PLACES[found["side"]](found, config)
    return f"{place}.{_inner(found['kind'], found['rest'])}"


def _down(found: re.Match[str], config: Any) -> str:
    layers = _layers(config, len(config.down_block_types))
    block = int(found["block"])
    start = 1 + sum(each + 1 for each in layers[:block])
    if found["kind"] == "downsamplers":
        return f"input_blocks.{start + layers[block]}.0"
    return f"input_blocks.{start + int(found['n'])}.{int(found['kind'] == 'attentions')}"


def _up(found: re.Match[str], config: Any) -> str:
    layers = _layers(config, len(config.down_block_types))[::-1]
    block = int(found["block"])
    start = sum(each + 1 for each in layers[:block])
    if found["kind"] == "upsamplers":
        attends = "Attn" in config.up_block_types[block]
        return f"output_blocks.{start + layers[block]}.{1 + attends}"
    return f"output_blocks.{start + int(found['n'])}.{int(found['kind'] == 'attentions')}"


def _middle(found: re.Match[str], _: Any) -> str:
    return f"middle_block.{_MIDDLE[found['kind'] + '.' + found['n']]}"


_PLACES = {"down_blocks": _down, "mid_block": _middle, "up_blocks": _up}


def _layers(config: Any, blocks: int) -> list[int]:
    told = config.layers_per_block
    return [told] * blocks if isinstance(told, int) else list(told)


def _inner(kind: str, rest: str) -> str:
    """Renames what is inside a layer of this kind."""
    if kind == "resnets":
        return _IN_RESNET.get(rest, rest)
    return "op" if kind == "downsamplers" else rest
