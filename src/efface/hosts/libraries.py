"""The boundary to diffusers and transformers: their versions, their classes, their errors."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from efface.errors import BadModel, BadRequest, EffaceError
from efface.files import read_json_object

__all__ = [
    "FLOORS",
    "check_class",
    "check_configs",
    "check_libraries",
    "check_placing",
    "library_class",
    "library_errors",
]

FLOORS = {"diffusers": (0, 38), "transformers": (5, 6)}
"""Oldest versions that load models rightly.

diffusers before 0.38 runs Python files of a model's folder; transformers before 5.6 gives a random
text encoder, without a word, for folders that newer versions saved.
"""
_PIPELINE_CLASSES = {("stable_diffusion", "StableDiffusionSafetyChecker")}
"""Parts of pipelines that diffusers keeps beside the pipeline, by ``model_index.json``."""
_LARGEST = 10_000_000
_MOST_LAYERS = 1_000
_LARGEST_EDGE = 4_096


@cache
def check_libraries() -> None:
    """Refuses libraries that are older than `FLOORS`.

    Raises:
        BadModel: naming the library, its version, and the one that is needed.
    """
    for name, floor in FLOORS.items():
        version = str(importlib.import_module(name).__version__)
        found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if found < floor:
            needed = ".".join(map(str, floor))
            raise BadModel(
                f"{name} {version} is installed and efface needs {needed} or newer, as older ones "
                f"load some models wrongly; run: pip install --upgrade '{name}>={needed}'"
            )


def check_placing(dtype: Any, device: Any) -> None:
    """Refuses types of numbers and devices that weights cannot have, before anything is loaded.

    Raises:
        BadRequest: naming what was given.
    """
    import torch

    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise BadRequest(
            f"dtype is {dtype!r:.40}; give torch.float32, torch.bfloat16 or torch.float16"
        )
    if device is None:
        return
    try:
        held = torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")[:80]
        raise BadRequest(
            f"device is {device!r:.40}, which is not there ({reason}); give 'cpu', or leave it out"
        ) from error
    if held.is_meta:
        raise BadRequest("device is 'meta', where weights have no values; give 'cpu'")


def library_class(file: Path, library: Any, name: Any) -> type[Any]:
    """Finds a class that a model's file names, among the public ones of the two libraries.

    Nothing else is imported, and no class that would choose another by what files say.

    Raises:
        BadModel: see `check_class`, or what is named is no class.
    """
    check_class(file, library, name)
    if (library, name) in _PIPELINE_CLASSES:
        from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

        checker: type[Any] = StableDiffusionSafetyChecker
        return checker
    found = getattr(importlib.import_module(library), name)
    if not (isinstance(found, type) and found.__module__.split(".")[0] == library):
        raise _unknown(file, library, name)
    return found


def check_class(file: Path, library: Any, name: Any) -> None:
    """Refuses a class that a model's file names unless the libraries offer it; imports nothing.

    Raises:
        BadModel: another package, an unknown name, or one that chooses by files.
    """
    if isinstance(name, str) and (library, name) in _PIPELINE_CLASSES:
        return
    if library not in FLOORS or not isinstance(name, str) or not name.isidentifier():
        raise BadModel(
            f"{file} names the class {str(name)[:80]!r} of {str(library)[:80]!r}; efface loads "
            "classes of diffusers and transformers alone, and runs no other code for a model"
        )
    if name.startswith("Auto") and not name.startswith("Autoencoder"):
        raise BadModel(
            f"{file} names {name}, which chooses a class by what further files say; name the class "
            "itself, such as CLIPTokenizer"
        )
    if name not in _public_names(library):
        raise _unknown(file, library, name)


@cache
def _public_names(library: str) -> frozenset[str]:
    """Lists what a library offers without importing it; transformers takes long to say."""
    return frozenset(dir(importlib.import_module(library)))


def _unknown(file: Path, library: str, name: str) -> BadModel:
    return BadModel(
        f"{file} names {name}, which the installed {library} "
        f"({importlib.metadata.version(library)}) does not have; update it, or fetch the model "
        "again"
    )


@contextmanager
def library_errors(where: Path | str, what: str) -> Iterator[None]:
    """Turns what a library raises on a broken file into one line.

    Args:
        where: the file or folder.
        what: what it does not do, such as ``load as CLIP``.

    Any exception, as libraries raise some dozen kinds for values that make no sense, and
    tokenizers plain ones.

    Raises:
        BadModel: naming the place and the reason.
    """
    try:
        yield
    except (EffaceError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or "no reason given"
        raise BadModel(
            f"{where} does not {what} ({type(error).__name__}: {reason}); copy the model again"
        ) from error


def check_configs(part: Path) -> None:
    """Reads the JSON files of a model's part before a library does.

    Raises:
        BadModel: one is not a JSON object, is nested too deeply, asks for code of the folder's, or
            holds a size that no model has.
    """
    for file in sorted(part.glob("*.json")):
        content = read_json_object(file, failure=BadModel, advice="copy the model again")
        if content.get("auto_map") or content.get("custom_pipelines"):
            raise BadModel(
                f"{file} asks for code of the model's own (auto_map), which efface never runs; "
                "use a model of diffusers' and transformers' own classes"
            )
        if file.name in ("config.json", "scheduler_config.json"):
            _check_sizes(file, content)


def _check_sizes(file: Path, content: Mapping[str, Any], depth: int = 0) -> None:
    for key, value in content.items():
        if isinstance(value, dict) and depth < 4:
            _check_sizes(file, value, depth + 1)
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            most = _LARGEST
            if re.search(r"layers|blocks|depth", key):
                most = _MOST_LAYERS
            elif re.search(r"sample_size|image_size|embed_max_size", key):
                most = _LARGEST_EDGE
            if abs(number) > most and "theta" not in key:
                raise BadModel(
                    f"{file} says that {key} is {str(number)[:40]}, and no model has more than "
                    f"{most}; copy the model again"
                )
