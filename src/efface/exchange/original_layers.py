"""Keys by ComfyUI's and the original code's names of layers, as keys by diffusers' names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from efface.hosts.components import component
from efface.hosts.families import HOSTS
from efface.hosts.host import Host
from efface.hosts.original_names import Piece

__all__ = ["renamed"]

_PREFIX = re.compile(
    r"^((base_model\.model|model|module|state_dict|_orig_mod)\.)*"
    r"(diffusion_model\.|transformer\.|lora_unet_|lora_transformer_|lycoris_)?"
)
_XLABS = re.compile(
    r"^(?P<block>.*_blocks\.\d+)\.processor\.(?P<layer>\w+_lora[12]?)\.(?P<rest>.+)$"
)
_XLABS_LAYERS = {
    "qkv_lora1": "img_attn.qkv",
    "proj_lora1": "img_attn.proj",
    "qkv_lora2": "txt_attn.qkv",
    "proj_lora2": "txt_attn.proj",
    "proj_lora": "linear2",
    "qkv_lora": "linear1",  # its first rows
}
"""XLabs' names for the layers of FLUX, whose LoRA they put into processors."""
_ENCODER = re.compile(r"^text_encoders\.(?P<encoder>[a-z0-9_]+)\.transformer\.")
_SUFFIX = re.compile(
    r"\.(?P<leaf>weight|bias|scale)?\.?(?P<role>(lora_(up|down)|lora_[AB](\.[^.]+)?)\.weight|alpha"
    r"|lora_magnitude_vector(\.[^.]+)*|dora_scale|diff|diff_b|w_norm|b_norm)?$"
)
_OF_ROWS = re.compile(r"lora_up|lora_B|diff|norm|^$")
"""Roles whose tensors have a row for every output."""
_MAGNITUDE = re.compile(r"^(dora_scale|lora_magnitude_vector)")
"""A number for every output, or one for every input, which hold for whole layers alone."""
_OF_BIAS = ("diff_b", "b_norm")


def renamed(tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Writes keys of the original code's layers, and of ComfyUI's encoders, as diffusers has them.

    A layer that stands for several of diffusers', such as one of queries, keys and values, is taken
    apart into their rows. All other keys stay as they are.

    Args:
        tensors: of a file.
        model: the base, for the names of its family.
    """
    host = next((each(model) for each in HOSTS if each.recognises(model)), None)
    if host is None:
        return dict(tensors)
    encoders = {theirs: ours for ours, theirs in host.comfy_encoders.items()}
    places = _places(host)
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        encoder = _ENCODER.match(key)
        if encoder is not None and encoder["encoder"] in encoders:
            found[f"{encoders[encoder['encoder']]}.{key[encoder.end() :]}"] = tensor
            continue
        parts = list(_taken_apart(key, tensor, places))
        found.update(parts or [(key, tensor)])
    return found


def _places(host: Host) -> dict[str, list[tuple[str, Piece]]]:
    """Lists by the original parameter's path, in dots and in underscores, what it stands for."""
    names = host.original_layers
    if names is None:
        return {}
    found: dict[str, list[tuple[str, Piece]]] = {}
    for path, piece in names.pieces(component(host.model, host.part)).items():
        found.setdefault(piece.name, []).append((path, piece))
    by_layer = {name.rpartition(".")[0].replace(".", "_"): name for name in found}
    underscored = {short: found[name] for short, name in by_layer.items() if "_" in short}
    return {**underscored, **found}


def _taken_apart(
    key: str, tensor: Tensor, places: Mapping[str, list[tuple[str, Piece]]]
) -> Iterator[tuple[str, Tensor]]:
    plain = _PREFIX.sub("", key)
    xlabs = _XLABS.match(plain)
    if xlabs is not None and xlabs["layer"] in _XLABS_LAYERS:
        plain = f"{xlabs['block']}.{_XLABS_LAYERS[xlabs['layer']]}.lora_{xlabs['rest']}"
    suffix = _SUFFIX.search(plain)
    if suffix is None or not places:
        return
    role, layer = suffix["role"] or "", plain[: suffix.start()]
    leaf = suffix["leaf"] or ("bias" if role in _OF_BIAS else "weight")
    pieces = next(
        (
            places[name]
            for name in (f"{layer}.{leaf}", f"{layer}.scale", layer.removesuffix("."), layer)
            if name in places
        ),
        [],
    )
    if xlabs is not None and xlabs["layer"] == "qkv_lora":
        first = sorted(pieces, key=lambda each: each[1].start)[:3]
        rows = sum(piece.rows for _, piece in first)
        pieces = [(path, piece._replace(whole=rows)) for path, piece in first]
    for path, piece in pieces:
        magnitude = _MAGNITUDE.match(role) is not None
        own = _rows(piece, tensor) if magnitude or _OF_ROWS.search(role) else tensor
        if own is None and magnitude and len(pieces) == 1:
            own = tensor
        if own is None:
            return
        yield _key(path, leaf, role), own


def _key(path: str, leaf: str, role: str) -> str:
    """Names a part of a tensor as diffusers' files do."""
    module, _, own = path.rpartition(".")
    if own not in ("weight", "bias"):  # a parameter in no layer
        return f"transformer.{path}{f'.{role}' if role else ''}"
    if not role:
        return f"transformer.{module}.{leaf if leaf in ('weight', 'bias') else own}"
    if leaf == "bias" and role == "diff":
        role = "diff_b"
    return f"transformer.{module}.{role}"


def _rows(piece: Piece, tensor: Tensor) -> Tensor | None:
    """Takes a piece's rows; None if the tensor is of something else."""
    if not tensor.ndim or len(tensor) != piece.whole:
        return None
    rows = tensor[piece.start : piece.start + piece.rows]
    return torch.cat(rows.chunk(2)[::-1]) if piece.swapped else rows
