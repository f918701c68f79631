"""One safetensors file per delta: tensors, and in its header the format version and provenance."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from efface.deltas.empty_prompt import EmptyPrompt
from efface.deltas.gates import read_gate
from efface.deltas.patches import KINDS, UNGATED, Patch
from efface.deltas.provenance import provenance_from_json, provenance_to_json
from efface.deltas.row_maps import read_row_maps
from efface.errors import BadDelta
from efface.files import parse_json, write_atomically
from efface.hosts.components import KEY_VALUE, TEXT_KEYS

if TYPE_CHECKING:
    from efface.deltas.delta import Delta

__all__ = ["FILE_NAME", "FORMAT", "FORMAT_VERSION", "load", "save"]

FORMAT = "efface-delta"
FORMAT_VERSION = 6
"""The newest that is read. Files are written as the oldest that holds all they have, as older
versions would pass over the rest in silence: 2 brought the keys of `TEXT_KEYS` beyond Stable
Diffusion 1 and 2, 3 gates, 4 ungated patches beside a gate, 5 an empty prompt that stays, and gates
that a part of a prompt opens, and 6 maps of rows."""
FILE_NAME = "delta.safetensors"


def save(delta: Delta, path: Path) -> None:
    """Writes a delta in one step; see `Delta.save`."""
    header = {
        "format": FORMAT,
        "format_version": str(_needed(delta)),
        "id": delta.id,
        "kinds": json.dumps(delta.kinds(), sort_keys=True),
        "provenance": provenance_to_json(delta.provenance),
    }
    if prints := delta.provenance.base_prints:
        header["base_prints"] = json.dumps(prints, sort_keys=True)
    if delta.empty_prompt != "edited":
        header["empty_prompt"] = delta.empty_prompt
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in delta.tensors().items()}
    write_atomically(path, serialise(_unshared(tensors), metadata=header))


def _needed(delta: Delta) -> int:
    if delta.row_maps:
        return 6
    parts = delta.gate is not None and delta.gate.reads_parts
    if parts or delta.empty_prompt != "edited":
        return 5
    if delta.ungated:
        return 4
    if delta.gate is not None:
        return 3
    return 2 if delta.patches.keys() & (TEXT_KEYS.keys() - {KEY_VALUE}) else 1


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies tensors that share memory with an earlier one, which the format does not allow."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return result


def load(path: Path, kind: type[Delta]) -> Delta:
    """Reads a delta and checks its hash; see `Delta.load`."""
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise BadDelta(f"there is no delta at {path}; give a {FILE_NAME} or the folder of a run")
    header, tensors = _read(file)
    _check_format(file, header)
    try:
        kinds: dict[str, str] = parse_json(header["kinds"], "the list of patches")
        every = {key: _patch(key, kind, tensors) for key, kind in kinds.items()}
        delta = kind(
            patches={key: patch for key, patch in every.items() if not key.startswith(UNGATED)},
            provenance=provenance_from_json(header["provenance"], header.get("base_prints", "{}")),
            gate=read_gate(tensors),
            ungated={
                key.removeprefix(UNGATED): patch
                for key, patch in every.items()
                if key.startswith(UNGATED)
            },
            empty_prompt=_empty_prompt(header.get("empty_prompt", "edited")),
            row_maps=read_row_maps(tensors),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadDelta(
            f"the header of {file} is damaged ({error}); make the delta again"
        ) from error
    if rest := tensors.keys() - delta.tensors().keys():
        raise BadDelta(
            f"{file} holds '{min(rest)}', which is of none of its patches; it was altered, so make "
            "the delta again or fetch it again"
        )
    if delta.id != header.get("id"):
        raise BadDelta(
            f"{file} was altered: its contents hash to {delta.id}, its header says "
            f"{header.get('id')}; make the delta again or fetch it again"
        )
    return delta


def _read(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            return opened.metadata() or {}, {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise BadDelta(
            f"{file} is damaged or cut short ({error}); make the delta again or fetch it again"
        ) from error


def _check_format(file: Path, header: dict[str, str]) -> None:
    if header.get("format") != FORMAT:
        raise BadDelta(f"{file} is a safetensors file but not a delta written by efface")
    version = header.get("format_version", "")
    if not re.fullmatch(r"[0-9]{1,6}", version):
        raise BadDelta(f"the header of {file} is damaged: its format version is '{version:.20}'")
    if int(version) > FORMAT_VERSION:
        raise BadDelta(
            f"{file} has format version {version} and this efface reads up to {FORMAT_VERSION}; "
            "update efface"
        )


def _empty_prompt(written: str) -> EmptyPrompt:
    if written not in get_args(EmptyPrompt):
        raise ValueError(f"its empty prompt is '{written}'")
    found: EmptyPrompt = "original" if written == "original" else "edited"
    return found


def _patch(key: str, kind: str, tensors: dict[str, Tensor]) -> Patch:
    made: Any = KINDS[kind]
    for name in made.__dataclass_fields__:
        tensor = tensors[f"{key}::{name}"]
        if name != "rows" and not tensor.is_floating_point():
            raise ValueError(f"'{key}::{name}' holds {tensor.dtype}")
    patch: Patch = made(**{name: tensors[f"{key}::{name}"] for name in made.__dataclass_fields__})
    return patch
