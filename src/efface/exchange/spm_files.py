"""SPM's published file: kohya's tensors by diffusers' names, and the erased prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from efface.core.files import write_atomically
from efface.errors import BadRequest
from efface.exchange.low_rank import Layers
from efface.models.components import canonical

__all__ = ["write_spm"]


def write_spm(
    layers: Layers, path: Path, facts: Mapping[str, str], *, prompts: Sequence[str]
) -> Path:
    """Writes the file that the SPM authors' tools, and stock diffusers without a gate, read.

    Alpha is the rank, as in the published files, where both are 1. The layout has no room for a
    gate: the authors' tools make one from ``prompts``, others leave the membrane open.

    Args:
        layers: what changes, of a U-Net and of one rank throughout.
        path: where the file goes.
        facts: written into the file's header besides.
        prompts: what is erased.

    Raises:
        BadRequest: another network, several ranks, no prompt, or a comma in one, where the
            authors' tools would cut it in two.
    """
    if layers.component != "unet":
        raise BadRequest(
            f"SPM's layout holds a U-Net and the delta changes {layers.component}; "
            "export it with --as diffusers-lora"
        )
    ranks = sorted({layer.rank for layer in layers.by_module.values()})
    if len(ranks) != 1:
        raise BadRequest(
            f"SPM's layout has one rank for all layers and the delta has {ranks}; cut it with "
            "--rank N, or export it with --as kohya"
        )
    split = [prompt for prompt in prompts if "," in prompt]
    if split or not prompts:
        raise BadRequest(
            f"SPM's layout needs erased prompts without commas and was given {list(prompts)}; "
            "export it with --as kohya"
        )
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.by_module.items():
        name = f"lora_unet_{canonical(module).replace('.', '_')}"
        up, down = layer.shaped()
        tensors[f"{name}.lora_down.weight"] = down.clone()
        tensors[f"{name}.lora_up.weight"] = up.clone()
        tensors[f"{name}.alpha"] = torch.tensor(float(ranks[0]))
    header = {"rank": str(ranks[0]), "alpha": str(float(ranks[0])), "prompts": ",".join(prompts)}
    write_atomically(path, save(tensors, metadata={**facts, **header}))
    return path
