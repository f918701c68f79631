"""Runs that were made on top of one another: each is in force only with those beneath it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadDelta, BadRequest
from efface.workbench import runs

if TYPE_CHECKING:
    from efface.deltas.delta import Delta
    from efface.runs.recipe import Recipe

__all__ = ["beneath", "check_fits", "composed", "deltas_with_parents", "on_top_of", "whole"]


def beneath(recipe: Recipe, *, beside: Path | None = None) -> tuple[runs.Run, ...]:
    """Opens the runs that a recipe is made on top of, the first request first.

    Args:
        recipe: of the run; empty where it is made on the bare base.
        beside: folder of the run itself: runs that were moved along with it are found there.

    Raises:
        BadRequest: one is not there, was made for another model, or the runs stand on each other
            in a circle.
        BadDelta: one is broken, or is another run by now than the one that was built on.
    """
    found: list[runs.Run] = []
    below, near, model = recipe.after, beside, recipe.model
    while below:
        run = runs.open_run(_place(below, near))
        if any(run.folder.resolve() == one.folder.resolve() for one in found):
            raise BadRequest(f"{run.folder} is made on top of itself; erase again")
        own = runs.recipe_of(run.folder)
        if own.model != model:
            raise BadRequest(
                f"{run.folder} is a run of {own.model or 'an unnamed model'}, not of {model}; "
                "requests in turn are of one model"
            )
        _check_parents(run, found[-1] if found else None)
        found.append(run)
        below, near = own.after, run.folder
    return tuple(reversed(found))


def whole(run: runs.Run) -> tuple[Delta, ...]:
    """Gives the deltas beneath a run, and its own last.

    Raises:
        BadRequest, BadDelta: see `beneath`; or the delta has parents that no record leads to.
    """
    parents = beneath(runs.recipe_of(run.folder), beside=run.folder)
    present = {one.delta.id for one in parents}
    if missing := [name for name in run.delta.provenance.parents if name not in present]:
        raise BadDelta(
            f"the delta of {run.folder} was made on top of {', '.join(missing)}, and its record "
            "does not say in which run that is; erase again with --after RUN"
        )
    return (*(one.delta for one in parents), run.delta)


@contextmanager
def on_top_of(parents: Sequence[Delta], model: Any) -> Iterator[None]:
    """Runs the body with earlier requests' deltas in force on a model.

    Args:
        parents: the first request first.
        model: is left as it was.
    """
    with ExitStack() as applied:
        for delta in parents:
            applied.enter_context(delta.apply(model))
        yield


def check_fits(deltas: Sequence[Delta], model: Any) -> None:
    """Refuses a model that a run's deltas were not made for, before any work is done with it.

    Args:
        deltas: the first request first.
        model: is left as it was.

    Raises:
        BadDelta: another kind of model, or other weights.
    """
    with on_top_of(deltas, model):
        return


def deltas_with_parents(source: Path) -> tuple[Delta, ...]:
    """Reads a run's delta after those beneath it; a delta's file alone comes alone.

    Raises:
        BadRequest, BadDelta: see `whole` and `efface.workbench.runs.read_delta`.
    """
    folder = source.parent if source.name in (runs.DELTA, runs.RECORD) else source
    if (folder / runs.RECORD).is_file() and (folder / runs.DELTA).is_file():
        return whole(runs.open_run(folder))
    return (runs.read_delta(source),)


def composed(source: Path) -> Delta:
    """Gives one delta that does what a run does together with those beneath it.

    Raises:
        BadRequest, BadDelta: see `deltas_with_parents` and `efface.deltas.composition.compose`.
    """
    from efface.deltas.composition import compose

    deltas = deltas_with_parents(source)
    return deltas[0] if len(deltas) == 1 else compose(deltas)


def _place(below: str, near: Path | None) -> Path:
    """Finds a run where it was, or beside the one that stands on it.

    Raises:
        BadRequest: it is in neither place.
    """
    named = Path(below)
    if near is None or (named / runs.RECORD).is_file():
        return named
    moved = near.absolute().parent / named.name
    if not (moved / runs.RECORD).is_file():
        raise BadRequest(
            f"{near} was made on top of the run {named}, which is not there; put that back, or "
            f"beside {near}"
        )
    return moved


def _check_parents(run: runs.Run, above: runs.Run | None) -> None:
    """Compares a run with what the next one was made on top of."""
    if above is not None and run.delta.id not in above.delta.provenance.parents:
        raise BadDelta(
            f"{above.folder} was made on top of {', '.join(above.delta.provenance.parents)}, and "
            f"{run.folder} holds {run.delta.id} by now; make {above.folder} again"
        )
