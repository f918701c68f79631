"""What a training run leaves beside and in its folder while it goes on: checkpoint and previews."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.cli.drawing import Shot, draw, sampling_for, write_png
from efface.cli.runs import Recipe
from efface.concepts import wordings

if TYPE_CHECKING:
    from efface.contracts import Monitor

__all__ = ["FOLDER", "checkpoint_of", "previewing"]

FOLDER = "previews"


def checkpoint_of(out: Path) -> Path:
    """Gives the folder beside a run's that holds its checkpoint until training is done."""
    return out.with_name(f"{out.name}.checkpoint")


def previewing(folder: Path, pipe: Any, recipe: Recipe, every: int) -> Callable[[Monitor], Monitor]:
    """Makes a monitor that draws the erased concept every so many steps, before it hands on.

    The weights in training are in force while the monitor is called, so the pipeline draws with
    them. Pictures are ``previews/step-0025.png``, beside ``base.png`` from before training; those
    of further methods in turn are ``method-2-step-0025.png``. Older ones in the folder go.
    """
    shot = Shot(wordings(recipe.request.erasures[0].concept)[0], recipe.seed)
    sampling = sampling_for(recipe.model)
    place = folder / FOLDER

    def picture(name: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        (drawn,) = draw(pipe, [shot], sampling, lambda *_: None)
        write_png(drawn, place / f"{name}.png")

    shutil.rmtree(place, ignore_errors=True)
    picture("base")

    def watch(monitor: Monitor) -> Monitor:
        turn, before = 1, -1

        def seen(step: int, total: int, figures: Mapping[str, float]) -> None:
            nonlocal turn, before
            monitor(step, total, figures)
            turn, before = turn + (step <= before), step
            if (step + 1) % every == 0:
                named = f"method-{turn}-" if turn > 1 else ""
                picture(f"{named}step-{step + 1:04}")

        return seen

    return watch
