"""What a training run leaves beside and in its folder while it goes on: checkpoint and previews."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.concepts import wordings
from efface.reports.previews import BASE, FOLDER, stem_of
from efface.workbench.drawing import Shot, draw, sampling_for, write_png
from efface.workbench.runs import Recipe

if TYPE_CHECKING:
    from efface.contracts import Monitor

__all__ = ["FOLDER", "checkpoint_of", "forget", "previewing"]


def checkpoint_of(out: Path) -> Path:
    """Gives the folder beside a run's that holds its checkpoint until training is done."""
    named = out if out.name not in ("", "..") else out.resolve()
    return named.parent / f"{named.name}.checkpoint"


def forget(folder: Path) -> None:
    """Removes the previews of an earlier run in the folder."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def previewing(
    folder: Path, pipe: Any, recipe: Recipe, every: int, *, resume: bool
) -> Callable[[Monitor], Monitor]:
    """Makes a monitor that draws the erased concept every so many steps, before it hands on.

    The weights in training are in force while the monitor is called, so the pipeline draws with
    them. Pictures are ``previews/step-0025.png``, beside ``base.png`` from before training; those
    of further methods in turn are ``method-2-step-0025.png``. Older ones in the folder go,
    unless training goes on from where they were drawn.
    """
    shot = Shot(wordings(recipe.request.erasures[0].concept)[0], recipe.seed)
    sampling = sampling_for(recipe.model)
    place = folder / FOLDER

    def picture(name: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        (drawn,) = draw(pipe, [shot], sampling, lambda *_: None)
        write_png(drawn, place / f"{name}.png")

    if not resume:
        forget(folder)
    if not (place / f"{BASE}.png").exists():
        picture(BASE)

    def watch(monitor: Monitor) -> Monitor:
        turn = 1
        awaited: tuple[int, int] | None = None  # any other step is the first of the next method

        def seen(step: int, total: int, figures: Mapping[str, float]) -> None:
            nonlocal turn, awaited
            monitor(step, total, figures)
            turn += awaited not in (None, (step, total))
            awaited = (step + 1, total)
            if (step + 1) % every == 0:
                picture(stem_of(turn, step + 1))

        return seen

    return watch
