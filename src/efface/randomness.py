"""Randomness as an argument; the environment that runs are in, recorded and as it usually is."""

from __future__ import annotations

import hashlib
import importlib.metadata
import operator
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.errors import BadRequest

__all__ = [
    "Environment",
    "as_usual",
    "derive",
    "environment",
    "evaluating",
    "noise_like",
    "split",
    "whole",
]

_PACKAGES = ("efface", "torch", "diffusers", "transformers", "safetensors", "numpy")


def whole(seed: Any) -> int:
    """Gives a seed, of whatever kind of whole number, as one that generators take.

    Raises:
        BadRequest: it is no whole number, or of more than 63 bits.
    """
    try:
        number = 1 << 63 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = 1 << 63
    if not -(2**63) <= number < 2**63:
        raise BadRequest(f"the seed is {seed!r:.40}; give a whole number of at most 63 bits")
    return number


def derive(seed: int, *purpose: str | int) -> torch.Generator:
    """Makes a CPU generator that depends on the seed and on every word of its purpose."""
    text = "/".join(str(part) for part in (seed, *purpose))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(number >> 1)


def split(generator: torch.Generator, *purposes: str) -> dict[str, torch.Generator]:
    """Makes one generator per purpose from a single draw, so that a new one shifts no other."""
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    return {purpose: derive(seed, purpose) for purpose in purposes}


def noise_like(
    tensor: Float[Tensor, "*shape"], generator: torch.Generator
) -> Float[Tensor, "*shape"]:
    """Draws standard normal noise in float32 on the generator's device, then casts and moves it.

    The same generator gives the same noise for every dtype and device of ``tensor``.
    """
    drawn = torch.randn(
        tensor.shape, generator=generator, device=generator.device, dtype=torch.float32
    )
    return drawn.to(tensor)


@dataclass(frozen=True)
class Environment:
    """What ran: package versions and the state of the source tree."""

    versions: Mapping[str, str]
    commit: str
    """Commit of the source tree that efface was imported from; empty for an installed package."""
    dirty: bool
    """Whether that source tree had uncommitted changes in the package."""


def environment() -> Environment:
    """Records versions, commit and whether the package's source was changed since."""
    versions = {"python": platform.python_version()}
    versions |= {name: _version(name) for name in _PACKAGES}
    commit, dirty = _source_state(Path(__file__).parents[1])
    return Environment(versions, commit, dirty)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _source_state(package: Path) -> tuple[str, bool]:
    """Asks git, when the package lies in a checkout that tracks it."""
    if not _git(package, "ls-files", "__init__.py"):
        return "", False
    return _git(package, "rev-parse", "HEAD"), bool(_git(package, "status", "--porcelain", "."))


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Runs modules in evaluation mode, without dropout, and puts every submodule's mode back."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        # Setting a mode costs far more than reading it, and passes of a model in use find it set.
        if any(training for _, training in modes):
            for module in modules:
                module.eval()
        yield
    finally:
        for part, training in modes:
            if part.training != training:
                part.training = training


@contextmanager
def as_usual() -> Iterator[None]:
    """Runs torch as it is when nothing was set: new tensors in float32, gradients, no autocast.

    What surrounds a call, such as ``torch.inference_mode()``, then changes no result of it; all of
    it is as it was afterwards.
    """
    found = torch.get_default_dtype()
    with ExitStack() as held:
        held.enter_context(torch.inference_mode(mode=False))
        held.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                held.enter_context(torch.autocast(kind, enabled=False))
        if found != torch.float32:
            held.callback(torch.set_default_dtype, found)
            torch.set_default_dtype(torch.float32)
        yield
