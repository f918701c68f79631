"""The key layouts of LoRA files: diffusers, peft and kohya."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from efface.errors import BadDelta
from efface.exchange.kohya_names import original_name
from efface.hosts.components import canonical, components
from efface.hosts.families import layout

__all__ = ["LoraLayers", "lora_layers"]

_DOWN = re.compile(r"^(?P<module>.+?)\.(lora_A|lora_down|lora\.down|lora_linear_layer\.down)\.")
_UP = {
    "lora_A": "lora_B",
    "lora_down": "lora_up",
    "lora.down": "lora.up",
    "lora_linear_layer.down": "lora_linear_layer.up",
}
_KOHYA = {
    "lora_unet_": "unet",
    "lora_te_text_model_": "text_encoder",
    "lora_te_": "text_encoder",
    "lora_te1_text_model_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_text_model_": "text_encoder_2",
    "lora_te2_": "text_encoder_2",
    "lora_transformer_": "transformer",
}


@dataclass
class LoraLayers:
    """Low-rank changes by parameter key with alpha in them, and the keys they came from."""

    by_key: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """``<component>/<path>.weight`` to up (out, rank) and down (rank, in)."""
    used: set[str] = field(default_factory=set)


def lora_layers(tensors: Mapping[str, Tensor], model: Any) -> LoraLayers | None:
    """Reads low-rank changes; None when the file has none.

    Raises:
        BadDelta: an up matrix is missing, or no module of the model is meant.
    """
    downs = {name: match for name in tensors if (match := _DOWN.match(name))}
    if not downs:
        return None
    modules = _modules(model)
    found = LoraLayers()
    for name, match in downs.items():
        up_name = name.replace(match[2], _UP[match[2]], 1)
        if up_name not in tensors:
            raise BadDelta(f"the file has '{name}' and no '{up_name}'; it is cut short")
        key = modules.get(_normal(match["module"]))
        if key is None:
            continue
        up, down = tensors[up_name], tensors[name]
        alpha = tensors.get(f"{match['module']}.alpha")
        scale = 1.0 if alpha is None else float(alpha) / len(down)
        found.by_key[key] = (up.float() * scale, down.float())
        found.used |= {name, up_name, f"{match['module']}.alpha"}
    if not found.by_key:
        theirs = sorted(match["module"] for match in downs.values())[:2]
        raise BadDelta(
            f"no layer of the LoRA is one of the model: it has {', '.join(theirs)} ..., the model "
            f"{', '.join(list(modules)[:2])} ...; the file is for another kind of model"
        )
    return found


def _normal(module: str) -> str:
    """Writes a module's path in one spelling: component, then the path with underscores."""
    name = module.removeprefix("base_model.model.")
    for prefix, part in _KOHYA.items():
        if name.startswith(prefix):
            return f"{part}_{name.removeprefix(prefix)}"
    first = name.partition(".")[0]
    known = first in ("unet", "text_encoder", "transformer", "text_encoder_2")
    plain = canonical(name if known else f"unet.{name}")
    return re.sub(r"\.processor\.(to_\w+)_lora$", r".\1", plain).replace(".", "_")


def _modules(model: Any) -> dict[str, str]:
    """Maps the spelling of `_normal` to the parameter key of every weight of two or more axes.

    The U-Net of Stable Diffusion XL goes by the original code's names too.
    """
    found = {}
    large = layout(model) == "sdxl"
    for part, network in components(model).items():
        for path, weight in network.named_parameters():
            plain = canonical(path)
            if plain.endswith(".weight") and weight.ndim >= 2:
                module = plain.removesuffix(".weight")
                names = [module]
                if large and part == "unet":
                    names.append(original_name(module, network.config))
                for name in names:
                    found[f"{part}_{name.replace('.', '_')}"] = f"{part}/{plain}"
    return found
