"""LoRA files: diffusers' and peft's layouts, and the one file that ComfyUI and A1111 read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from efface.exchange.kohya_names import kohya_name
from efface.exchange.low_rank import Layers
from efface.files import write_atomically

__all__ = ["write_diffusers", "write_kohya", "write_peft"]


def write_diffusers(layers: Layers, folder: Path, facts: Mapping[str, str]) -> Path:
    """Writes ``pytorch_lora_weights.safetensors``, which ``pipe.load_lora_weights`` reads.

    Args:
        layers: what changes.
        folder: where the file goes.
        facts: written into the file's header.
    """
    tensors = _peft_names(layers, prefix=f"{layers.component}.")
    path = folder / "pytorch_lora_weights.safetensors"
    write_atomically(path, save(tensors, metadata={"format": "pt", **facts}))
    return path


def write_peft(layers: Layers, folder: Path, facts: Mapping[str, str]) -> Path:
    """Writes a folder that ``peft.PeftModel.from_pretrained(pipe.unet, folder)`` reads."""
    tensors = _peft_names(layers, prefix="base_model.model.")
    ranks = {module: layer.rank for module, layer in layers.by_module.items()}
    usual = max(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": facts.get("base_model"),
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": sorted(ranks),
    }
    path = folder / "adapter_model.safetensors"
    write_atomically(path, save(tensors, metadata={"format": "pt", **facts}))
    write_atomically(folder / "adapter_config.json", (json.dumps(config, indent=2) + "\n").encode())
    return path


def write_kohya(layers: Layers, path: Path, facts: Mapping[str, str]) -> Path:
    """Writes one file in the layout of kohya's scripts.

    Modules are named as in `kohya_name`; alpha is the rank, so that strength 1 is the whole change.

    Raises:
        BadRequest: the layout has no name for the changed network.
    """
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.by_module.items():
        name = kohya_name(layers.model, layers.component, module)
        up, down = layer.shaped()
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = up
        tensors[f"{name}.alpha"] = torch.tensor(float(layer.rank))
    rank = max(layer.rank for layer in layers.by_module.values())
    header: dict[str, Any] = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        **facts,
    }
    write_atomically(path, save(_apart(tensors), metadata=header))
    return path


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
