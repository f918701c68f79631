"""LoRA files: diffusers' and peft's layouts, and the one file that ComfyUI and A1111 read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from efface.core.files import write_atomically
from efface.errors import BadRequest
from efface.exchange.low_rank import Layers

__all__ = ["write_diffusers", "write_kohya", "write_peft"]

_KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te"}


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
    write_atomically(folder / "adapter_config.json", (json.dumps(config, indent=2) + "\n").encode())
    path = folder / "adapter_model.safetensors"
    write_atomically(path, save(tensors, metadata={"format": "pt", **facts}))
    return path


def write_kohya(layers: Layers, path: Path, facts: Mapping[str, str]) -> Path:
    """Writes one file in the layout of kohya's scripts.

    Modules keep diffusers' names with underscores, as kohya's scripts name those of Stable
    Diffusion 1.x and 2.x; alpha is the rank, so that strength 1 is the whole change.

    Raises:
        BadRequest: the layout has no name for the changed network.
    """
    if layers.component not in _KOHYA:
        raise BadRequest(
            f"kohya's layout names the U-Net and the text encoder, and the delta changes "
            f"{layers.component}; export it with --as diffusers-lora"
        )
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.by_module.items():
        name = f"{_KOHYA[layers.component]}_{module.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = layer.down.contiguous()
        tensors[f"{name}.lora_up.weight"] = layer.up.contiguous()
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
        tensors[f"{prefix}{module}.lora_A.weight"] = layer.down.contiguous()
        tensors[f"{prefix}{module}.lora_B.weight"] = layer.up.contiguous()
    return _apart(tensors)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives every tensor memory of its own: layers share the directions of a text map."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
