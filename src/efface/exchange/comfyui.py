"""One file for ComfyUI: low-rank layers, and dense differences of whatever is not low rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from efface.errors import BadRequest
from efface.exchange.headers import DIFFUSERS, model_fields, saved
from efface.exchange.kohya_names import kohya_name
from efface.exchange.low_rank import Layers
from efface.files import write_atomically
from efface.hosts.components import canonical, component
from efface.hosts.families import host_of
from efface.hosts.host import Host
from efface.hosts.original_names import Piece

__all__ = ["write_comfyui"]


def write_comfyui(networks: Sequence[Layers], path: Path, facts: Mapping[str, str]) -> Path:
    """Writes what ComfyUI's node "Load LoRA" applies exactly, at strength 1 for model and CLIP.

    Layers go by the names that ComfyUI looks up: kohya's for U-Nets, diffusers' after
    ``transformer.`` for transformers, ComfyUI's own after ``text_encoders.`` for text encoders.
    Low rank is ``.lora_up`` and ``.lora_down``, with the rank as alpha; all else is ``.diff`` and
    ``.diff_b``. Biases that ComfyUI keeps in one parameter with others, such as those of queries,
    keys and values, are put together under its own name, ``diffusion_model....bias.diff``: of such
    layers it looks up no ``.diff_b``.

    Args:
        networks: what changes in each; see `efface.exchange.low_rank.every_network`.
        path: where the file goes.
        facts: written into the file's header.

    Raises:
        BadRequest: a network that ComfyUI's loader does not change, such as the VAE.
    """
    tensors: dict[str, Tensor] = {}
    for layers in networks:
        tensors |= _low_rank(layers)
        tensors |= _whole(layers)
    widest = max(networks, key=lambda each: each.rank)
    header = {**model_fields(widest, implementation=DIFFUSERS), **facts}
    held = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, saved(held, header))
    return path


def _low_rank(layers: Layers) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.by_module.items():
        name = _name(host_of(layers.model), layers, module)
        up, down = layer.shaped()
        tensors[f"{name}.lora_up.weight"] = up
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.alpha"] = torch.tensor(float(layer.rank))
    return tensors


def _whole(layers: Layers) -> dict[str, Tensor]:
    host = host_of(layers.model)
    originals: dict[str, Piece] = {}
    if layers.component == host.part and host.original_layers is not None:
        originals = host.original_layers.pieces(component(layers.model, layers.component))
    tensors: dict[str, Tensor] = {}
    for parameter, change in layers.full.items():
        module, _, leaf = parameter.rpartition(".")
        piece = originals.get(parameter)
        if leaf == "weight":
            tensors[f"{_name(host, layers, module)}.diff"] = change
        elif piece is not None and (leaf != "bias" or not piece.is_all):
            name = f"diffusion_model.{piece.name}.diff"
            whole = tensors.get(name, torch.zeros(piece.whole, *change.shape[1:]))
            tensors[name] = _put(piece, change, whole)
        elif leaf == "bias":
            tensors[f"{_name(host, layers, module)}.diff_b"] = change
        else:
            raise BadRequest(
                f"the delta changes {layers.component}/{parameter}, and ComfyUI looks up no such "
                "parameter; export the edited folder: --as diffusers"
            )
    return tensors


def _put(piece: Piece, change: Tensor, whole: Tensor) -> Tensor:
    """Puts a change into its rows of the original parameter."""
    whole = whole.clone()
    halves = change.chunk(2)[::-1] if piece.swapped else (change,)
    whole[piece.start : piece.start + piece.rows] = torch.cat(halves)
    return whole


def _name(host: Host, layers: Layers, module: str) -> str:
    """Names a layer as ComfyUI looks it up.

    Raises:
        BadRequest: it does not look into this network, or its names for it are not known here.
    """
    if layers.component == host.part and not host.comfy_layers:
        raise BadRequest(
            f"it is not known here by which names ComfyUI looks up layers of {host.title}; export "
            "it with --as diffusers-lora, or the edited folder with --as diffusers"
        )
    part, plain = layers.component, canonical(module)
    if part == "unet":
        return kohya_name(layers.model, part, module)
    if part == host.part:
        return _original(host, plain) if host.comfy_originals else f"transformer.{plain}"
    if part not in host.comfy_encoders:
        raise BadRequest(
            f"the delta changes {part}, and ComfyUI's LoRA loader changes the denoiser and text "
            "encoders alone; export the edited folder: --as diffusers"
        )
    encoder = host.comfy_encoders[part]
    inside = "" if encoder.endswith("t5xxl") or plain == "text_projection" else "text_model."
    return f"text_encoders.{encoder}.transformer.{inside}{plain}"


def _original(host: Host, layer: str) -> str:
    """Names a layer of which the original code has one just as it is."""
    network = component(host.model, host.part)
    pieces = {} if host.original_layers is None else host.original_layers.pieces(network)
    piece = pieces.get(f"{layer}.weight")
    if piece is None or not piece.is_all:
        raise BadRequest(
            f"the original code has no layer like {layer}, by whose name ComfyUI would look it up; "
            "export the edited folder: --as diffusers"
        )
    return f"diffusion_model.{piece.name.removesuffix('.weight')}"
