"""LoRA files: diffusers' and peft's layouts, and the one file that ComfyUI and A1111 read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface.errors import BadRequest
from efface.exchange.headers import DIFFUSERS, model_fields, saved
from efface.exchange.kohya_names import kohya_name
from efface.exchange.low_rank import Layers, full_refused
from efface.files import write_atomically
from efface.hosts.families import host_of

__all__ = ["write_diffusers", "write_kohya", "write_peft"]

SGM = "https://github.com/Stability-AI/generative-models"
"""ModelSpec's ``implementation`` of files that name a U-Net's layers as the original code does."""
_READ_OF_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "text_projection")
"""Layers of text encoders that ComfyUI looks up in kohya's files."""


def write_diffusers(layers: Layers, folder: Path, facts: Mapping[str, str]) -> Path:
    """Writes ``pytorch_lora_weights.safetensors``, which ``pipe.load_lora_weights`` reads.

    Args:
        layers: what changes.
        folder: where the file goes.
        facts: written into the file's header.

    Raises:
        BadRequest: the delta changes biases or norms, which the layout cannot hold.
    """
    _refuse_full(layers)
    tensors = _peft_names(layers, prefix=f"{layers.component}.")
    header = {**model_fields(layers), **facts, **_adapter_metadata(layers)}
    path = folder / "pytorch_lora_weights.safetensors"
    write_atomically(path, saved(tensors, header))
    return path


def write_peft(layers: Layers, folder: Path, facts: Mapping[str, str]) -> Path:
    """Writes a folder that ``peft.PeftModel.from_pretrained(pipe.unet, folder)`` reads.

    Raises:
        BadRequest: the delta changes biases or norms, which the layout cannot hold.
    """
    _refuse_full(layers)
    tensors = _peft_names(layers, prefix="base_model.model.")
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": facts.get("base_model"),
        **_peft_config(layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    path = folder / "adapter_model.safetensors"
    header = {**model_fields(layers), **facts, **_adapter_metadata(layers)}
    write_atomically(path, saved(tensors, header))
    write_atomically(folder / "adapter_config.json", (json.dumps(config, indent=2) + "\n").encode())
    return path


def write_kohya(layers: Layers, path: Path, facts: Mapping[str, str]) -> Path:
    """Writes one file in the layout of kohya's scripts.

    Modules are named as in `kohya_name`; alpha is the rank, so that strength 1 is the whole change.
    Biases and norms go along whole as ``.diff_b`` and ``.diff``, which ComfyUI reads.

    Raises:
        BadRequest: the layout has no name for the changed network, or ComfyUI none for a norm.
    """
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.by_module.items():
        name = kohya_name(layers.model, layers.component, module)
        up, down = layer.shaped()
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = up
        tensors[f"{name}.alpha"] = torch.tensor(float(layer.rank))
    for parameter, change in layers.full.items():
        module, _, leaf = parameter.rpartition(".")
        if layers.component != "unet" and not module.endswith(_READ_OF_TEXT):
            raise BadRequest(
                f"the delta changes {layers.component}/{parameter}, and ComfyUI reads no such "
                "layer of text encoders; export the edited folder: --as diffusers"
            )
        name = kohya_name(layers.model, layers.component, module)
        tensors[f"{name}.{'diff_b' if leaf == 'bias' else 'diff'}"] = change
    original = layers.component == "unet" and host_of(layers.model).original_names
    header = model_fields(layers, implementation=SGM if original else DIFFUSERS)
    write_atomically(path, saved(_apart(tensors), {**header, **facts}))
    return path


def _adapter_metadata(layers: Layers) -> dict[str, str]:
    """Writes peft's config as diffusers does, which then takes ranks and alphas from it.

    Files with alphas among their tensors must not have it: diffusers refuses both together.
    """
    named = {f"{layers.component}.{name}": value for name, value in _peft_config(layers).items()}
    return {"lora_adapter_metadata": json.dumps(named, sort_keys=True)}


def _refuse_full(layers: Layers) -> None:
    if layers.full:
        raise full_refused(tuple(layers.full))


def _peft_config(layers: Layers) -> dict[str, Any]:
    """Gives peft's ranks and alphas, alike for every layer, and the layers."""
    ranks = {module: layer.rank for module, layer in layers.by_module.items()}
    usual = max(ranks.values())
    # A pattern holds for every module that ends with it, unless it says where names begin.
    others = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != usual}
    return {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
    }


def _peft_names(layers: Layers, *, prefix: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.by_module.items():
        up, down = layer.shaped()
        tensors[f"{prefix}{module}.lora_A.weight"] = down
        tensors[f"{prefix}{module}.lora_B.weight"] = up
    return _apart(tensors)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives every tensor memory of its own: layers share the directions of a text map."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
