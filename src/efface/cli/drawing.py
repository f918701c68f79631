"""Same-seed pictures from a pipeline, and PNG files that appear whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.cli.hosts import BUNDLED
from efface.errors import BadRequest

if TYPE_CHECKING:
    from PIL.Image import Image

    from efface.contracts import Monitor

__all__ = ["Sampling", "Shot", "draw", "sampling_for", "write_png"]

_BATCH = 8


@dataclass(frozen=True)
class Shot:
    """One picture: a prompt and the seed of its first noise."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn."""

    steps: int
    guidance: float


def sampling_for(
    model: str, *, steps: int | None = None, guidance: float | None = None
) -> Sampling:
    """Gives the usual sampling of a model, with what the user set.

    Raises:
        BadRequest: fewer than one step.
    """
    usual = Sampling(20, 4.0) if model == BUNDLED else Sampling(50, 7.5)
    if steps is not None and steps < 1:
        raise BadRequest(f"steps is {steps}; a picture needs at least one")
    return Sampling(
        usual.steps if steps is None else steps, usual.guidance if guidance is None else guidance
    )


def draw(pipe: Any, shots: Sequence[Shot], sampling: Sampling, monitor: Monitor) -> list[Image]:
    """Draws the shots in order; the monitor hears of every denoising step.

    Each picture has its own CPU generator, so it does not depend on which others are drawn.
    """
    import torch

    pictures: list[Image] = []
    total = -(-len(shots) // _BATCH) * sampling.steps
    for first in range(0, len(shots), _BATCH):
        batch = shots[first : first + _BATCH]
        done = first // _BATCH * sampling.steps

        def heard(_pipe: Any, step: int, _time: Any, kept: Any, done: int = done) -> Any:
            monitor(done + step, total, {})
            return kept

        drawn = pipe(
            [shot.prompt for shot in batch],
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            generator=[torch.Generator().manual_seed(shot.seed) for shot in batch],
            callback_on_step_end=heard,
        )
        pictures += drawn.images
    return pictures


def write_png(picture: Image, path: Path) -> None:
    """Writes a PNG beside its place, then moves it there."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        picture.save(beside, format="PNG")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
