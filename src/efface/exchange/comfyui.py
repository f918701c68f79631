"""One file for ComfyUI: low-rank layers, and dense differences of whatever is not low rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from efface.errors import BadRequest
from efface.exchange.headers import DIFFUSERS, model_fields, saved
from efface.exchange.kohya_names import kohya_name
from efface.exchange.low_rank import Layer, Layers
from efface.files import write_atomically
from efface.hosts.components import canonical, component
from efface.hosts.families import host_of
from efface.hosts.host import Host
from efface.hosts.original_names import Piece

__all__ = ["write_comfyui"]


def write_comfyui(networks: Sequence[Layers], path: Path, facts: Mapping[str, str]) -> Path:
    """Writes what ComfyUI's node "Load LoRA" applies exactly, at strength 1 for model and CLIP.

    Layers go by the names that ComfyUI looks up: kohya's for U-Nets, diffusers' after
    ``transformer.`` for transformers, ComfyUI's own after ``text_encoders.`` for text encoders, and
    those after ``diffusion_model.`` for layers of transformers that it knows by no other name.
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
        _check_known(layers)
        tensors |= _low_rank(layers)
        tensors |= _fused(layers)
        tensors |= _whole(layers)
    widest = max(networks, key=lambda each: each.rank)
    header = {**model_fields(widest, implementation=DIFFUSERS), **facts}
    held = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, saved(held, header))
    return path


def _check_known(layers: Layers) -> None:
    host = host_of(layers.model)
    if layers.component == host.part and not host.comfy_layers:
        raise BadRequest(
            f"it is not known here by which names ComfyUI looks up layers of {host.title}; export "
            "it with --as diffusers-lora, or the edited folder with --as diffusers"
        )


def _low_rank(layers: Layers) -> dict[str, Tensor]:
    originals, tensors = _own(layers), dict[str, Tensor]()
    for module, layer in layers.by_module.items():
        if f"{module}.weight" not in originals:
            name = _name(host_of(layers.model), layers, module)
            tensors |= _matrices(name, *layer.shaped())
    return tensors


def _whole(layers: Layers) -> dict[str, Tensor]:
    host, own = host_of(layers.model), _own(layers)
    originals = _originals(layers)
    tensors: dict[str, Tensor] = {}
    for parameter, change in layers.full.items():
        module, _, leaf = parameter.rpartition(".")
        piece = originals.get(parameter)
        if leaf == "weight" and parameter not in own:
            tensors[f"{_name(host, layers, module)}.diff"] = change
        elif leaf == "weight":
            continue  # with the matrices of the same layer, see `_fused`
        elif piece is not None and (leaf != "bias" or not piece.is_all):
            name = f"diffusion_model.{piece.name}.diff"
            whole = tensors.get(name, torch.zeros(piece.whole, *change.shape[1:]))
            tensors[name] = _put(piece, change, whole)
        elif leaf == "bias":
            name = _own_name(own[parameter]) if parameter in own else _name(host, layers, module)
            tensors[f"{name}.diff_b"] = change
        else:
            raise BadRequest(
                f"the delta changes {layers.component}/{parameter}, and ComfyUI looks up no such "
                "parameter; export the edited folder: --as diffusers"
            )
    return tensors


def _fused(layers: Layers) -> dict[str, Tensor]:
    """Writes layers that go by their original names, of which several may be rows of one.

    ComfyUI takes either matrices or a difference for a layer. Where all changes of its rows are
    matrices, these are put together, one rank after the other; otherwise all are written out.
    """
    own = _own(layers)
    found: dict[str, list[tuple[Piece, Layer | Tensor]]] = {}
    for path, piece in own.items():
        module = path.removesuffix(".weight")
        change = layers.by_module.get(module, layers.full.get(path))
        if path.endswith(".weight") and change is not None:
            found.setdefault(_own_name(piece), []).append((piece, change))
    tensors: dict[str, Tensor] = {}
    for name, changes in found.items():
        low = [(piece, each.shaped()) for piece, each in changes if not isinstance(each, Tensor)]
        if len(low) == len(changes):
            ups = [_put(piece, up, torch.zeros(piece.whole, len(up.T))) for piece, (up, _) in low]
            downs = [down for _, (_, down) in low]
            tensors |= _matrices(name, torch.cat(ups, dim=1), torch.cat(downs))
            continue
        for piece, each in changes:
            change = each if isinstance(each, Tensor) else each.up @ each.down
            whole = tensors.get(f"{name}.diff", torch.zeros(piece.whole, *change.shape[1:]))
            tensors[f"{name}.diff"] = _put(piece, change, whole)
    return tensors


def _own_name(piece: Piece) -> str:
    """Names a layer as ComfyUI itself does; scales of norms are weights there."""
    return f"diffusion_model.{piece.name.rpartition('.')[0]}"


def _matrices(name: str, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    return {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_down.weight": down,
        f"{name}.alpha": torch.tensor(float(len(down))),
    }


def _originals(layers: Layers) -> dict[str, Piece]:
    """Gives by parameter where it lies in the network that ComfyUI has."""
    host = host_of(layers.model)
    if layers.component != host.part or host.original_layers is None:
        return {}
    return host.original_layers.pieces(component(layers.model, layers.component))


def _own(layers: Layers) -> dict[str, Piece]:
    """Keeps those whose layers ComfyUI looks up by its own names alone."""
    beginnings = host_of(layers.model).comfy_own
    return {path: each for path, each in _originals(layers).items() if path.startswith(beginnings)}


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
    part, plain = layers.component, canonical(module)
    if part == "unet":
        return kohya_name(layers.model, part, module)
    if part == host.part:
        return f"transformer.{plain}"
    if part.startswith("text_encoder") and part not in host.comfy_encoders:
        raise BadRequest(
            f"it is not known here what ComfyUI calls the layers of {host.title}'s {part}; export "
            "the edited folder: --as diffusers"
        )
    if part not in host.comfy_encoders:
        raise BadRequest(
            f"the delta changes {part}, and ComfyUI's LoRA loader changes the denoiser and text "
            "encoders alone; export the edited folder: --as diffusers"
        )
    encoder = host.comfy_encoders[part]
    inside = "" if "t5" in encoder or plain == "text_projection" else "text_model."
    return f"text_encoders.{encoder}.transformer.{inside}{plain}"
