"""Checks a model folder from file headers, before any weight is read."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from efface.errors import BadModel
from efface.models.components import canonical

__all__ = ["check_folder", "header_shapes"]

_LIBRARIES = ("diffusers", "transformers")
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in autoencoders saved before diffusers 0.16, which it still reads."""


def check_folder(folder: Path) -> str | None:
    """Checks that every network of a folder is whole and has the shapes that its config says.

    Returns:
        The variant to load, such as ``fp16``, when a network has no files without one.

    Raises:
        BadModel: a file is missing, cut short, not JSON, or holds tensors of another shape.
    """
    index = _json(folder / "model_index.json")
    parts = {name: entry for name, entry in index.items() if _is_part(entry)}
    if not parts:
        raise BadModel(f"{folder / 'model_index.json'} lists no parts; it is not a pipeline")
    variants = set()
    for name, (library, class_name) in parts.items():
        part = folder / name
        if not part.is_dir():
            raise BadModel(f"{folder} has no folder '{name}'; the copy is not complete")
        if library in _LIBRARIES and (network := _empty_network(part, library, class_name)):
            files, variant = _weight_files(part)
            variants.add(variant)
            _check_shapes(part, network, _shapes(files))
    return next((variant for variant in variants if variant), None)


def _is_part(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(x, str) for x in entry)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadModel(f"{file} is missing; the copy of the model is not complete") from error
    except (OSError, ValueError) as error:
        raise BadModel(f"{file} is not readable as JSON ({error}); copy the model again") from error
    if not isinstance(content, dict):
        raise BadModel(f"{file} does not hold a JSON object; copy the model again")
    return content


def _empty_network(part: Path, library: str, class_name: str) -> nn.Module | None:
    """Builds the network of a config without memory, or gives None for tokenizers and the like."""
    kind: Any = getattr(importlib.import_module(library), class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        return None
    builder: Any = kind
    config = _json(part / "config.json")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            if library == "diffusers":
                built: nn.Module = builder.from_config(config)
            else:
                built = builder(builder.config_class.from_dict(config))
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadModel(
            f"{part / 'config.json'} does not describe a {class_name}: {error}"
        ) from error
    return built


def _weight_files(part: Path) -> tuple[list[Path], str | None]:
    """Finds the safetensors files of a network, shards included; plain ones before variants."""
    for index in sorted(part.glob("*.safetensors.index*.json")):
        names = sorted(set(_json(index).get("weight_map", {}).values()))
        variant = re.search(r"index\.(\w+)\.json$", index.name)
        return [part / name for name in names], variant and variant.group(1)
    found = sorted(part.glob("*.safetensors"), key=lambda file: file.name.count("."))
    if not found:
        held = ", ".join(sorted(file.name for file in part.iterdir())) or "nothing"
        raise BadModel(
            f"{part} holds no safetensors file (it holds {held}); "
            "copy the model again, or convert its weights to safetensors"
        )
    levels = found[0].name.split(".")
    return found[:1], levels[1] if len(levels) > 2 else None


def header_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Reads names and shapes from a safetensors header and checks the file's length against it.

    Raises:
        BadModel: missing, not safetensors, or cut short.
    """
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            size = file.stat().st_size
            header = json.loads(opened.read(length)) if length < size else None
    except FileNotFoundError as error:
        raise BadModel(f"{file} is missing; the copy of the model is not complete") from error
    except (OSError, ValueError, struct.error) as error:
        raise BadModel(f"{file} is damaged ({error}); copy the model again") from error
    if not isinstance(header, dict):
        raise BadModel(f"{file} is cut short within its header; copy the model again")
    tensors = {name: facts for name, facts in header.items() if name != "__metadata__"}
    expected = 8 + length + max((facts["data_offsets"][1] for facts in tensors.values()), default=0)
    if size != expected:
        raise BadModel(
            f"{file} has {size} bytes and its header says {expected}; it is cut short or damaged, "
            "copy the model again"
        )
    return {name: tuple(facts["shape"]) for name, facts in tensors.items()}


def _shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    return {name: shape for file in files for name, shape in header_shapes(file).items()}


def _check_shapes(part: Path, network: nn.Module, found: dict[str, tuple[int, ...]]) -> None:
    present = {_modern(name): shape for name, shape in found.items()}
    for name, shape in _expected(network):
        if name not in present:
            raise BadModel(f"{part} lacks the tensor '{name}'; the weights are of another model")
        if present[name] != shape and not _same_kernel(present[name], shape):
            raise BadModel(
                f"{part}: '{name}' has shape {present[name]} and the config says {shape}; "
                "weights and config are of different models"
            )


def _expected(network: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, parameter in network.named_parameters():
        yield canonical(name), tuple(parameter.shape)


def _modern(name: str) -> str:
    levels = canonical(name).split(".")
    with contextlib.suppress(IndexError):
        if levels[-2] in _OLD_ATTENTION and "attentions" in levels:
            levels[-2] = _OLD_ATTENTION[levels[-2]]
    return ".".join(levels)


def _same_kernel(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Accepts a linear layer stored as a 1 x 1 convolution, as old files have it."""
    return found == (*expected, 1, 1)
