"""``efface rerun``: the same recipe once more; is the delta the same?"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface.cli.asking import Placed
from efface.cli.shell import parse
from efface.errors import BadRequest, EffaceError
from efface.runs.recipe import EraseRecipe, Recipe, StagesRecipe
from efface.workbench import lineage, making, runs
from efface.workbench.folder import folders_of
from efface.workbench.models import host_for

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.deltas.delta import Delta

__all__ = ["TOLERANCE", "Rerun", "distance", "run"]

TOLERANCE = 1e-4
"""Relative distance that counts as the same delta: other processors round differently."""


@dataclass(frozen=True, kw_only=True)
class Rerun(Placed):
    """Which run to repeat."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or its run.json."""
    model: str | None = None
    """Another copy of the base model; by default the model that the run names."""
    out: Path | None = None
    """Folder for the new delta and its run.json; by default nothing is kept."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


def run(arguments: list[str], output: Output) -> int:
    """Repeats a run with its settings and seed, and compares the two deltas."""
    from efface.runs.given import pictured

    options = parse(Rerun, arguments, prog="efface rerun", description="Repeats a run.")
    before = runs.open_run(options.source)
    recipe = pictured(_as_it_was(before))
    model = options.model or recipe.model
    if not model:
        raise BadRequest(f"{options.source} does not say where its model is; give --model FOLDER")
    with ExitStack() as opened:
        folder = None
        if options.out is not None:
            reads = [before.folder, *folders_of(model)]
            new = making.open_new_run(options.out, recipe, overwrite=options.overwrite, reads=reads)
            folder = opened.enter_context(new)
        *parents, _ = lineage.whole(before)
        placed = options.or_recorded(recipe, model)
        recipe = replace(recipe, **placed.recorded())
        pipe = host_for(model, recipe.method, output, placed, pictures=bool(parents))
        opened.enter_context(lineage.on_top_of(parents, pipe))
        result = making.perform(recipe, pipe, output)
        if folder is not None:
            making.write_run(folder, result)
        far = distance(pipe, before.delta, result.delta)
    same = before.delta.id == result.delta.id
    agrees = same or far <= TOLERANCE
    verdict = _verdict(before.delta, result.delta, far)
    output.say(f"{verdict} (first {before.delta.id}, now {result.delta.id})")
    output.result({"equal": same, "agrees": agrees, "relative_distance": far})
    return 0 if agrees else 1


def _as_it_was(before: runs.Run) -> Recipe:
    """Reads a run's recipe, with all settings as they were, whatever presets say by now."""
    recipe = runs.recipe_of(before.folder)
    if not isinstance(recipe, EraseRecipe | StagesRecipe):
        return recipe
    try:
        return recipe.restated(before.record["settings"])
    except (KeyError, TypeError, AttributeError) as error:
        raise BadRequest(
            f"{before.folder} does not hold its settings ({error}); erase again"
        ) from error
    except EffaceError as error:
        raise BadRequest(f"{before.folder} cannot be repeated by this efface: {error}") from error


def _verdict(before: Delta, after: Delta, far: float) -> str:
    if before.id == after.id:
        return "equal"
    old, new = before.provenance, after.provenance
    why = f"; the method was revised since (revision {old.revision})" * (
        old.revision != new.revision
    )
    changed = [
        f"{name} {old.versions[name]}, now {new.versions[name]}"
        for name in old.versions.keys() & new.versions.keys()
        if old.versions[name] != new.versions[name]
    ]
    why += f"; made with {', '.join(sorted(changed))}" if changed else ""
    return f"{'close' if far <= TOLERANCE else 'different'}, relative distance {far:.2e}{why}"


def distance(pipe: Any, first: Delta, second: Delta) -> float:
    """Measures how far apart two changes of the same model are, weight by weight.

    The norm of the difference over the norm of the first change; 1 is as far as no change at all.
    """
    from efface.hosts.components import parameters

    apart = size = 0.0
    for key, weight in parameters(pipe):
        if first.covering(key) or second.covering(key):
            change = first.difference(key, weight.detach())
            apart += float((change - second.difference(key, weight.detach())).square().sum())
            size += float(change.square().sum())
    if size == 0.0:
        return 0.0 if apart == 0.0 else float("inf")
    return float((apart / size) ** 0.5)
