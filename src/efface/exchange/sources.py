"""Reads what a file or folder of another tool holds: tensors by name, of one or more networks."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from efface.errors import BadDelta, MissingInput
from efface.exchange.lora_keys import is_named_by_peft
from efface.exchange.lora_settings import CONFIG, LoraSettings, header_settings, peft_settings
from efface.hosts.shards import came_instead, folder_json, is_safetensors, weight_sets

__all__ = ["Place", "Source", "find_places", "header_of", "load"]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_LORAS = ("adapter_model", "pytorch_lora_weights")
_DEEPEST = 8
_ASIDE = re.compile(r"(^|\.)(training_args|optimizer|scheduler|rng_state)")


@dataclass(frozen=True)
class Place:
    """Files that make one set of weights."""

    files: tuple[Path, ...]
    part: str | None = None
    """The network that a folder's name says they are of."""


@dataclass(frozen=True)
class Source:
    """Tensors that are stored together."""

    tensors: Mapping[str, Tensor]
    part: str | None = None
    """As in `Place`."""
    settings: Mapping[str | None, LoraSettings] = field(default_factory=dict)
    """By network, or under None for whatever network: alphas that are no tensors."""


def find_places(path: Path) -> list[Place]:
    """Finds the weights of a file, a folder of one network, or a folder with one for each network.

    Raises:
        MissingInput: there is nothing there, or several things of which one must be named.
    """
    if path.is_file():
        return [Place((path,))]
    if not path.is_dir():
        raise MissingInput(f"there is no file or folder {path} to import")
    own = () if (path / "model_index.json").is_file() else _weights(path)
    inner = {each.name: _weights(each) for each in sorted(path.iterdir()) if each.is_dir()}
    inner = {name: files for name, files in inner.items() if files}
    if own and inner:
        raise MissingInput(
            f"{path} holds {own[0].name} and the folders {', '.join(inner)}; name one of them"
        )
    if not own and not inner:
        held = ", ".join(sorted(each.name for each in path.iterdir())[:8]) or "nothing"
        raise MissingInput(
            f"{path} should hold weights to import, as .safetensors or .bin (it holds: {held}); "
            "name the file"
        )
    return [Place(own)] if own else [Place(files, part) for part, files in inner.items()]


def header_of(file: Path) -> dict[str, str]:
    """Gives the metadata in a safetensors file's header; other files have none."""
    if not is_safetensors(file):
        return {}
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata() or {})


def _weights(folder: Path) -> tuple[Path, ...]:
    """Lists the files of the one set of weights in a folder, as libraries choose it.

    Raises:
        MissingInput: there are several sets, of which none comes first.
    """
    loras = [each for name in _LORAS if (each := _first(folder, name)) is not None]
    if len(loras) > 1:
        raise _several(folder, loras)
    if loras:
        return tuple(loras)
    sets = [each.files for each in weight_sets(folder) if each.variant is None]
    sets = sets or [each.files for each in weight_sets(folder)] or _pickled(folder)
    if any(file.parent != folder for files in sets for file in files):
        raise BadDelta(f"an index in {folder} names files outside of it; name the files yourself")
    if len(sets) > 1:
        raise _several(folder, [files[0] for files in sets])
    return sets[0] if sets else ()


def _pickled(folder: Path) -> list[tuple[Path, ...]]:
    indices = sorted(folder.glob("*.bin.index.json"))
    if indices:
        names = folder_json(indices[0]).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise BadDelta(f"{indices[0]} has no weight map of names to files; copy it again")
        return [tuple(folder / name for name in sorted(set(names.values())))]
    found = [file for suffix in _PICKLES for file in sorted(folder.glob(f"*{suffix}"))]
    return [(file,) for file in found if not _ASIDE.search(file.name)]


def _first(folder: Path, name: str) -> Path | None:
    """Finds a file of this name, safetensors before pickles."""
    places = [folder / f"{name}{suffix}" for suffix in (".safetensors", *_PICKLES)]
    return next((place for place in places if place.is_file()), None)


def _several(folder: Path, files: list[Path]) -> MissingInput:
    names = ", ".join(file.name for file in files)
    return MissingInput(
        f"{folder} should hold one set of weights to import (it holds: {names}); name one"
    )


def load(place: Place) -> Source:
    """Reads tensors and alphas; pickles with ``weights_only``, so that they can run nothing.

    Raises:
        BadDelta: a file is missing or damaged, holds more than tensors by name, or another tensor
            than a file before it by the same name.
    """
    tensors: dict[str, Tensor] = {}
    for file in place.files:
        held = _read(file)
        for name in tensors.keys() & held.keys():
            if not torch.equal(tensors[name], held[name]):
                raise BadDelta(
                    f"'{name}' is in two files of {file.parent} and differs; they are of different "
                    "copies, so fetch them again"
                )
        tensors |= held
    first = place.files[0]
    if not tensors:
        raise BadDelta(f"{first} holds no tensors by name; ask for a file with tensors")
    beside = first.with_name(CONFIG)
    peft = first.stem == "adapter_model" or any(is_named_by_peft(name) for name in tensors)
    settings: Mapping[str | None, LoraSettings] = header_settings(first, header_of(first))
    if peft and beside.is_file():
        settings = {None: peft_settings(beside)}
    return Source(tensors, place.part, settings)


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise BadDelta(f"{file} is missing or no regular file; copy all files of the folder again")
    _refuse_text(file)
    try:
        if is_safetensors(file):
            return dict(load_file(file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, which say nothing to users
            held = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise BadDelta(
            f"{file} is a pickle that holds more than tensors{what}, which could run code, and is "
            "not read; ask for safetensors"
        ) from None
    except (SafetensorError, OSError, EOFError, ValueError, LookupError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise BadDelta(f"{file} is damaged ({reason}); copy it again") from error
    if not isinstance(held, Mapping):
        raise BadDelta(f"{file} holds a {type(held).__name__} and no tensors by name")
    return dict(_flat(file, held))


def _refuse_text(file: Path) -> None:
    """Tells what came in place of weights from what is damaged."""
    if (told := came_instead(file)) is not None:
        raise BadDelta(f"{file} is {told}")
    with file.open("rb") as opened:
        start = opened.read(2)
    if not is_safetensors(file) and not start.startswith((b"PK", b"\x80")):
        raise BadDelta(f"{file} is no file of weights: neither safetensors nor a pickle of PyTorch")


def _flat(file: Path, held: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Tensor]]:
    """Writes nested tables as one: ``{"unet": {"conv_in": {"weight": w}}}`` is one long name.

    Numbers become tensors, as alphas are; text and the like is nobody's weight.

    Raises:
        BadDelta: tensors without names, or tables in tables without end.
    """
    if before.count(".") > _DEEPEST * 8:
        raise BadDelta(f"{file} has tables in tables without end; ask for safetensors")
    for name, value in held.items():
        place = f"{before}{name}"
        if isinstance(value, Tensor):
            if value.is_meta or value.layout is not torch.strided:
                raise BadDelta(
                    f"'{place}' in {file} has no values of its own or is sparse; save it again as "
                    "an ordinary tensor"
                )
            yield place, value.detach()
        elif isinstance(value, Mapping):
            yield from _flat(file, value, f"{place}.")
        elif isinstance(value, int | float):
            yield place, torch.tensor(float(value))
        elif isinstance(value, list | tuple) and any(isinstance(each, Tensor) for each in value):
            raise BadDelta(
                f"{file} holds a list of tensors without names under '{place}'; "
                "ask for tensors by name"
            )
