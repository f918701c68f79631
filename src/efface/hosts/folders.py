"""Checks a model folder from file headers, before any weight is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from efface.errors import BadModel
from efface.hosts.components import canonical
from efface.hosts.libraries import check_class, check_configs, library_class, library_errors
from efface.hosts.shards import folder_json, weight_set

__all__ = ["PARTS", "check_classes", "check_folder", "empty_network", "pipeline_parts"]

PARTS = ("unet", "transformer", "vae", "text_encoder", "tokenizer", "scheduler")
"""Beginnings of the names of parts that pipelines need."""
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in autoencoders saved before diffusers 0.16, which it still reads."""


def check_folder(folder: Path) -> str | None:
    """Checks that every network of a folder is whole and has the shapes that its config says.

    Returns:
        The variant to load, such as ``fp16``, when a network has no files without one.

    Raises:
        BadModel: a file is missing, cut short, not JSON, or holds tensors of another shape.
    """
    file = folder / "model_index.json"
    index = folder_json(file)
    kinds = pipeline_parts(file, index)
    if not kinds:
        raise BadModel(f"{file} lists no parts; it is not a pipeline")
    check_classes(file, index)
    variants = set()
    for name, (library, class_name) in kinds.items():
        part = folder / name
        if not part.is_dir():
            raise BadModel(f"{folder} has no folder '{name}'; the copy is not complete")
        kind = library_class(file, library, class_name)
        check_configs(part)
        if network := empty_network(part, kind):
            weights = weight_set(part)
            variants.add(weights.variant)
            found = {name: tensor.shape for name, tensor in weights.tensors().items()}
            _check_shapes(part, network, found)
    return next((variant for variant in variants if variant), None)


def pipeline_parts(file: Path, index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Lists the parts of a pipeline that are there: library and class by name.

    Raises:
        BadModel: an entry is neither a class nor the sign of a part that is left out.
    """
    found = {}
    for name, entry in index.items():
        if name.startswith("_") or entry in ([None, None], (None, None)):
            continue
        if not isinstance(entry, list):
            if name.startswith(PARTS):
                raise _odd_entry(file, name, entry)
            continue  # An argument of the pipeline, such as requires_safety_checker.
        if len(entry) != 2 or not all(isinstance(each, str) for each in entry):
            raise _odd_entry(file, name, entry)
        if name in (".", "..") or Path(name).name != name:
            raise _odd_entry(file, name, entry)
        found[name] = (entry[0], entry[1])
    return found


def check_classes(file: Path, index: Mapping[str, Any]) -> None:
    """Refuses a pipeline that is not diffusers' own, or with parts that are of no known library.

    Raises:
        BadModel: naming the class.
    """
    check_class(file, "diffusers", index.get("_class_name"))
    for library, name in pipeline_parts(file, index).values():
        check_class(file, library, name)


def _odd_entry(file: Path, name: str, entry: Any) -> BadModel:
    return BadModel(
        f"{file} says {str(entry)[:80]} of its part '{name[:80]}', where a library and a class are "
        "expected; copy the model again"
    )


def empty_network(part: Path, kind: Any) -> nn.Module | None:
    """Builds the network of a config without memory, or gives None for tokenizers and the like.

    Raises:
        BadModel: the config does not describe one.
    """
    if not issubclass(kind, nn.Module):
        return None
    config = folder_json(part / "config.json")
    with (
        library_errors(part / "config.json", f"describe a {kind.__name__}"),
        torch.random.fork_rng(devices=[]),
        torch.device("meta"),
    ):
        if hasattr(kind, "from_config"):
            built: nn.Module = kind.from_config(config)
        else:
            # From the folder, as one that was copied from a whole CLIP holds the text's inside.
            built = kind(kind.config_class.from_pretrained(part, local_files_only=True))
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
