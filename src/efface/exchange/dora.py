"""Layers of DoRA: matrices turn a weight, and its rows or columns get lengths of their own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from efface.deltas.patches import DensePatch, LowRankPatch
from efface.errors import BadDelta
from efface.exchange.lora_keys import MAGNITUDES, LoraLayer
from efface.exchange.lora_settings import LoraSettings

__all__ = ["check_magnitude", "decomposed"]

_SMALL = torch.finfo(torch.float32).eps
"""LyCORIS adds it to norms; peft adds nothing."""


def check_magnitude(name: str, layer: LoraLayer, settings: LoraSettings | None) -> None:
    """Checks that a layer has a magnitude if, and only if, the file's settings say so.

    Args:
        name: of the layer in the file.
        layer: with both matrices.
        settings: what the file says, if it says anything.

    Raises:
        BadDelta: one is missing, there are two, or the settings say that there is none.
    """
    held = [layer.key_of(role) for role in MAGNITUDES if role in layer.tensors]
    if len(held) > 1:
        raise BadDelta(f"'{held[0]}' and '{held[1]}' are two magnitudes of one layer; keep one")
    said = settings.decomposed if settings is not None else None
    if settings is None or said is None or said == bool(held):
        return
    if said:
        raise BadDelta(
            f"{settings.origin} is of DoRA and the file has no magnitude of {name}; it is cut short"
        )
    raise BadDelta(
        f"'{held[0]}' is of DoRA and {settings.origin} says use_dora = False; the files contradict "
        "each other"
    )


def decomposed(
    key: str, layer: LoraLayer, patch: LowRankPatch, weight: Float[Tensor, "out in_ *kernel"]
) -> DensePatch:
    """Gives what a layer of DoRA changes of its base: ``m (W + s B A) / |W + s B A| - W``.

    The norms are of rows, over all inputs and the kernel (peft, and LyCORIS with ``wd_on_out``), or
    of columns, over all outputs and the kernel; the shape of the magnitudes says which.

    Args:
        key: of the weight, for messages.
        layer: with both matrices and a magnitude.
        patch: ``s B A``.
        weight: ``W``.

    Raises:
        BadDelta: the magnitudes are as many as neither rows nor columns, or a norm is 0.
    """
    role = next(each for each in MAGNITUDES if each in layer.tensors)
    magnitude, own = layer.tensors[role].double(), layer.key_of(role)
    base = weight.detach().to("cpu", torch.float64)
    turned = base + (patch.up.double() @ patch.down.double()).reshape(base.shape)
    axis = _axis(role, tuple(magnitude.shape), tuple(base.shape))
    if axis is None:
        raise BadDelta(
            f"'{own}' is DoRA's magnitude of {key} and has shape {tuple(magnitude.shape)}, the "
            f"base has {tuple(base.shape)} there; the file is for another model"
        )
    others = tuple(each for each in range(base.ndim) if each != axis)
    norms = torch.linalg.vector_norm(turned, dim=others, keepdim=True)
    if role == "dora_scale":
        norms = norms + _SMALL
    if not bool(norms.all()):
        raise BadDelta(
            f"'{own}' is DoRA's magnitude of {key}, of which rows are 0 and have no direction; the "
            "file is for another model"
        )
    changed = magnitude.reshape(norms.shape) / norms * turned
    return DensePatch((changed - base).float())


def _axis(role: str, shape: tuple[int, ...], base: tuple[int, ...]) -> int | None:
    """Says which dimension of the weight the magnitudes are of; None if of neither.

    peft writes ``(out,)``, for convolutions ``(1, out, 1, 1)``. LyCORIS writes ``(out, 1, ...)`` or
    ``(1, in, 1, ...)``, and diffusers keeps the first under peft's name.
    """
    trailing = all(size == 1 for size in shape[2:])
    if shape[:1] == base[:1] and trailing and shape[1:2] in ((), (1,)):
        return 0
    if len(shape) < 2 or shape[0] != 1 or not trailing:
        return None
    if role == "magnitude":
        return 0 if len(base) > 2 and shape[1] == base[0] else None
    return 1 if shape[1] == base[1] else None
