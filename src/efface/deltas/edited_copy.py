"""From a model folder and a delta to an edited folder, one tensor at a time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Monitor, silent
from efface.deltas.copy_plan import CopyPlan, applied_in, plan_copy
from efface.deltas.delta import Delta
from efface.deltas.empty_prompt import refuse_in_weights
from efface.deltas.patches import finite
from efface.deltas.row_maps import refuse_row_maps
from efface.errors import BadModel, BadRequest, ModelCollapsed
from efface.files import RECORD, check_place, replacing, seal
from efface.hosts.shards import StoredTensor
from efface.plain_values import place

__all__ = ["EditedCopy", "edited_copy"]

CHUNK = 1 << 23
"""Bytes that are copied at a time."""


@dataclass(frozen=True, kw_only=True)
class EditedCopy:
    """What was written."""

    folder: Path
    tensors: int
    """How many tensors were changed; a tensor that a model holds in two variants counts twice."""
    bytes: int
    """Size of all files together."""
    left_out: tuple[str, ...]
    """Files of the model that hold unedited weights and were therefore not copied."""


def edited_copy(
    folder: Path | str,
    delta: Delta,
    out: Path | str,
    *,
    scale: float = 1.0,
    overwrite: bool = False,
    monitor: Monitor = silent,
) -> EditedCopy:
    """Writes a copy of a diffusers folder with a delta merged into its weights.

    The model is never built. Files are copied as they are; in those that hold edited tensors, the
    bytes of these tensors are replaced and everything else, the header with its metadata included,
    stays the same. Memory: one tensor. Weight files that would still hold the unedited network
    (another format, a variant of other weights, single-file checkpoints beside the parts) are left
    out. ``efface.json`` in the copy says what was merged, and lists its files.

    The copy appears whole or not at all: it is made in a folder beside ``out`` and renamed.

    Args:
        folder: the base model that the delta was made for.
        delta: what to merge.
        out: name of the new folder; it must be free or an empty folder, and outside ``folder``.
        scale: 1 is the whole change.
        overwrite: replaces an older copy there, if nothing in it was added or changed since.
        monitor: called once per file.

    Raises:
        BadRequest: ``out`` is taken, in use or inside the model, or the disk has too little space.
        BadModel: a file of the model is missing or cut short.
        BadDelta: the delta is for another base, lacks a parent, is merged into it already, or is
            not in weights alone.
        ModelCollapsed: a changed value does not fit the dtype of the files.
    """
    folder, out, scale = place("the folder", folder), place("out", out), finite(scale)
    refuse_in_weights(delta.id, delta.empty_prompt)
    refuse_row_maps(delta.id, delta.row_maps)
    _check_outside(folder, out)
    check_place(out, overwrite=overwrite, protected=[folder])
    plan = plan_copy(folder, delta)
    _check_space(plan.bytes, out)
    with replacing(out, overwrite=overwrite, protected=[folder]) as staging:
        for step, (name, source) in enumerate(plan.files.items()):
            target = staging / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(source, target, plan.edits.get(name, {}), delta, scale)
            monitor(step, len(plan.files), {})
        _record(staging / RECORD, folder, delta, scale, plan)
        seal(staging)
    edited = sum(len(edits) for edits in plan.edits.values())
    return EditedCopy(folder=out, tensors=edited, bytes=plan.bytes, left_out=plan.left_out)


def _check_outside(folder: Path, out: Path) -> None:
    if folder.resolve() in [out.resolve(), *out.resolve().parents]:
        raise BadRequest(f"{out} lies inside the model {folder}; give a name outside of it")


def _check_space(needed: int, out: Path) -> None:
    there = next(place for place in (out, *out.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise BadRequest(
            f"the copy needs {_size(needed)} and {there} has {_size(free)} free; "
            "free some space or choose another disk"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _copy(
    source: Path, target: Path, edits: Mapping[str, StoredTensor], delta: Delta, scale: float
) -> None:
    """Copies bytes; those of edited tensors are replaced on the way."""
    with source.open("rb") as old, target.open("wb") as new:
        for key, place in sorted(edits.items(), key=lambda item: item[1].start):
            _pass(old, new, place.start - old.tell())
            changed = _changed(delta, key, _next_tensor(old, place), scale)
            new.write(changed.contiguous().flatten().view(torch.uint8).numpy().data)
        _pass(old, new, source.stat().st_size - old.tell())
        new.flush()
        os.fsync(new.fileno())


def _next_tensor(old: BufferedReader, place: StoredTensor) -> Tensor:
    content = torch.empty(place.bytes, dtype=torch.uint8)
    if place.bytes and old.readinto(content.numpy().data) != place.bytes:
        raise BadModel(f"{place.file} became shorter while it was copied; copy the model again")
    return place.tensor(content)


def _pass(old: BufferedReader, new: BufferedWriter, count: int) -> None:
    while count > 0:
        content = old.read(min(CHUNK, count))
        if not content:
            raise BadModel(f"{old.name} became shorter while it was copied; copy the model again")
        new.write(content)
        count -= len(content)


def _changed(
    delta: Delta, key: str, weight: Float[Tensor, "*shape"], scale: float
) -> Float[Tensor, "*shape"]:
    """Adds the change as applying the delta does: in float32, or float64 for such weights."""
    if scale == 0:
        return weight
    wide = weight.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    changed = (wide + scale * delta.difference(key, wide)).to(weight.dtype)
    if not bool(changed.isfinite().all()):
        raise ModelCollapsed(
            f"{key} would hold values that do not fit {weight.dtype} or are not finite; "
            "lower the scale, or use a copy of the model in a wider dtype"
        )
    return changed


def _record(file: Path, folder: Path, delta: Delta, scale: float, plan: CopyPlan) -> None:
    """Writes what is merged, for people and for later edits; earlier merges stay listed."""
    merged: dict[str, Any] = {
        "delta": delta.id,
        "scale": scale,
        "provenance": asdict(delta.provenance),
        "tensors": sum(len(edits) for edits in plan.edits.values()),
        "left_out": plan.left_out,
    }
    content = {"base": folder.resolve().name, "merged": [*applied_in(folder), merged]}
    file.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
