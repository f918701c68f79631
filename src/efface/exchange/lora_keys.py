"""The keys of LoRA files: what each tensor is of which layer, in every layout that is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from efface.deltas.patches import LowRankPatch
from efface.errors import BadDelta

__all__ = [
    "MAGNITUDES",
    "LoraLayer",
    "alpha_of",
    "foreign_kind",
    "is_named_by_peft",
    "lora_layers",
    "low_rank",
]

_DOWN = r"\.lora_A(\.(?P<a>[^.]+))?|\.lora_down|[._]lora\.down|\.lora_linear_layer\.down"
_UP = r"\.lora_B(\.(?P<a>[^.]+))?|\.lora_up|[._]lora\.up|\.lora_linear_layer\.up"
_ROLES = {
    "down": re.compile(rf"^(?P<layer>.+?)({_DOWN})\.weight$"),
    "up": re.compile(rf"^(?P<layer>.+?)({_UP})\.weight$"),
    "weight": re.compile(r"^(?P<layer>.+)\.(diff|w_norm)$"),
    "bias": re.compile(r"^(?P<layer>.+)\.(diff_b|b_norm)$"),
    "shift": re.compile(r"^(?P<layer>.+?)\.lora_B(\.(?P<a>[^.]+))?\.bias$"),
    "magnitude": re.compile(
        r"^(?P<layer>.+)\.lora_magnitude_vector(\.(?!weight$)[^.]+)?(\.weight)?$"
    ),
    "dora_scale": re.compile(r"^(?P<layer>.+)\.dora_scale$"),
}
"""Diffusers', peft's and kohya's names; full differences as ComfyUI and LyCORIS write them."""
MAGNITUDES = ("magnitude", "dora_scale")
"""Roles that make a layer one of DoRA, by peft's and LyCORIS' names."""

_FOREIGN = {
    "LoHa": r"\.hada_",
    "LoKr": r"\.lokr_",
    "LoCon in Tucker form": r"\.lora_mid\b",
    "OFT": r"\.oft_",
    "BOFT": r"\.boft_",
    "(IA)3": r"\.on_input$|\.ia3_",
    "GLoRA": r"\.[ab][12]\.weight$",
    "a LoRA of an embedding": r"\.lora_embedding_[AB]\b",
    "DoRA without a LoRA's two matrices": r"\.(dora_scale|lora_magnitude_vector)\b",
    "DoRA in a layout that is not known": r"\.magnitude$",
}
"""Kinds of adapters that are not read, by their keys."""


@dataclass
class LoraLayer:
    """The tensors of one layer, and the keys they are under."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By role: ``down`` and ``up``, with or without ``alpha``, ``shift`` (peft's bias of the second
    matrix) and one of `MAGNITUDES`; ``weight`` and ``bias``."""
    keys: list[str] = field(default_factory=list)

    @property
    def low(self) -> bool:
        """Whether there is a low-rank change."""
        return "down" in self.tensors

    @property
    def decomposed(self) -> bool:
        """Whether it is a layer of DoRA."""
        return self.low and any(role in self.tensors for role in MAGNITUDES)

    def key_of(self, role: str) -> str:
        """Gives the key that a role's tensor is under."""
        return self.keys[list(self.tensors).index(role)]


def is_named_by_peft(name: str) -> bool:
    """Says whether a name is as peft itself has it, which keeps alphas in a file of their own."""
    return name.startswith("base_model.") or bool(re.search(r"\.lora_[AB]\.(?!weight$)", name))


def foreign_kind(keys: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Names the first kind of adapter that is not read, and one of its keys."""
    for kind, pattern in _FOREIGN.items():
        if key := next((key for key in keys if re.search(pattern, key)), None):
            return kind, key
    return None


def lora_layers(tensors: Mapping[str, Tensor]) -> dict[str, LoraLayer]:
    """Gathers by a layer's name in the file what adapters add to it.

    Raises:
        BadDelta: one of two matrices is missing, or there are several adapters.
    """
    found: dict[str, LoraLayer] = {}
    for key, tensor in tensors.items():
        for role, pattern in _ROLES.items():
            if match := pattern.match(key):
                layer = found.setdefault(match["layer"], LoraLayer())
                if role in layer.tensors:
                    raise BadDelta(
                        f"the file has two adapters for {match['layer']} ({layer.keys[0]}, {key}); "
                        "save each in a file of its own"
                    )
                layer.tensors[role] = tensor
                layer.keys.append(key)
    for name, layer in found.items():
        if layer.low != ("up" in layer.tensors):
            raise BadDelta(
                f"the file has '{layer.keys[0]}' and not the other matrix of {name}; it is cut "
                "short"
            )
        if layer.low and f"{name}.alpha" in tensors:
            layer.tensors["alpha"] = tensors[f"{name}.alpha"]
            layer.keys.append(f"{name}.alpha")
    return found


def low_rank(
    key: str, layer: LoraLayer, module: nn.Module, weight: Tensor, scale: float
) -> LowRankPatch:
    """Multiplies the matrices of a layer out as far as a delta does.

    Args:
        key: of the weight, for messages.
        layer: with both matrices.
        module: the layer in the model.
        weight: its weight.
        scale: alpha over the rank.

    Raises:
        BadDelta: the layer is of another kind, or the matrices have another shape.
    """
    up, down = layer.tensors["up"].float(), layer.tensors["down"].float()
    plain = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if not plain or getattr(module, "groups", 1) != 1:
        raise BadDelta(
            f"the LoRA changes {key}, which is of {type(module).__name__}, and linear layers and "
            "plain convolutions alone are read; ask for merged weights"
        )
    inner, kernel = weight[0].numel(), _sizes(weight)
    fits = not _sizes(up) and (down.ndim == 2 or _sizes(down) == kernel)
    if not fits or (len(up), up[0].numel(), down[0].numel()) != (len(weight), len(down), inner):
        raise BadDelta(
            f"the LoRA changes {key} by {tuple(up.shape)} times {tuple(down.shape)}, the base has "
            f"{tuple(weight.shape)} there; the file is for another model"
        )
    return LowRankPatch(up=up.flatten(1) * scale, down=down.flatten(1))


def _sizes(weight: Tensor) -> list[int]:
    """Gives the sizes of a kernel; 1 x 1 convolutions are linear layers."""
    return [size for size in weight.shape[2:] if size != 1]


def alpha_of(name: str, layer: LoraLayer) -> float | None:
    """Reads the alpha among a layer's tensors, if there is one.

    Raises:
        BadDelta: it is not one finite number, or 0.
    """
    alpha = layer.tensors.get("alpha")
    if alpha is None:
        return None
    if alpha.numel() != 1 or not bool(torch.isfinite(alpha).all()):
        raise BadDelta(f"'{name}.alpha' should be one number and is {alpha.tolist()!r:.60}")
    if not float(alpha):
        raise BadDelta(
            f"'{name}.alpha' is 0, which kohya's scripts read as the rank and others as no change; "
            "write the alpha that is meant into the file"
        )
    return float(alpha)
