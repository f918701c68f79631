"""Checks a model folder from file headers, before any weight is read."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from efface.errors import BadModel
from efface.hosts.components import canonical
from efface.hosts.encoders import BAD_CONFIG
from efface.hosts.shards import folder_json, weight_set

__all__ = ["check_folder"]

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
    index = folder_json(folder / "model_index.json")
    parts = {name: entry for name, entry in index.items() if _is_part(entry)}
    if not parts:
        raise BadModel(f"{folder / 'model_index.json'} lists no parts; it is not a pipeline")
    variants = set()
    for name, (library, class_name) in parts.items():
        part = folder / name
        if not part.is_dir():
            raise BadModel(f"{folder} has no folder '{name}'; the copy is not complete")
        if library in _LIBRARIES and (network := _empty_network(part, library, class_name)):
            weights = weight_set(part)
            variants.add(weights.variant)
            found = {name: tensor.shape for name, tensor in weights.tensors().items()}
            _check_shapes(part, network, found)
    return next((variant for variant in variants if variant), None)


def _is_part(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(x, str) for x in entry)


def _empty_network(part: Path, library: str, class_name: str) -> nn.Module | None:
    """Builds the network of a config without memory, or gives None for tokenizers and the like."""
    kind: Any = getattr(importlib.import_module(library), class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        return None
    builder: Any = kind
    config = folder_json(part / "config.json")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            if library == "diffusers":
                built: nn.Module = builder.from_config(config)
            else:
                built = builder(builder.config_class.from_dict(config))
    except BAD_CONFIG as error:
        raise BadModel(
            f"{part / 'config.json'} does not describe a {class_name}: {error}"
        ) from error
    return built


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
