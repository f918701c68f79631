"""``efface rerun``: the same recipe once more; is the delta the same?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface.cli import debias, runs
from efface.cli.folder import check_free, claimed, folders_of
from efface.cli.hosts import host_for
from efface.cli.shell import Shared, parse

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.deltas.delta import Delta

__all__ = ["TOLERANCE", "Rerun", "distance", "run"]

TOLERANCE = 1e-4
"""Relative distance that counts as the same delta: other processors round differently."""


@dataclass(frozen=True, kw_only=True)
class Rerun(Shared):
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
    options = parse(Rerun, arguments, prog="efface rerun", description="Repeats a run.")
    before = runs.open_run(options.source)
    recipe = runs.recipe_of(before.folder)
    if recipe.method != debias.METHOD:
        recipe = _all_settings(recipe, before)
    protected = [before.folder, *folders_of(options.model or recipe.model)]
    if options.out is not None:
        check_free(options.out, overwrite=options.overwrite, protected=protected)
    pipe = host_for(options.model or recipe.model, recipe.method, output, pictures=False)
    repeat = debias.again if recipe.method == debias.METHOD else runs.erase
    result = repeat(pipe, recipe, output)
    if options.out is not None:
        with (
            claimed(options.out, overwrite=options.overwrite, protected=protected) as folder,
            folder.staged() as staging,
        ):
            result.save(staging)
            runs.extend_record(staging, recipe)
    far = distance(pipe, before.delta, result.delta)
    same = before.delta.id == result.delta.id
    agrees = same or far <= TOLERANCE
    verdict = _verdict(before.delta, result.delta, far)
    output.say(f"{verdict} (first {before.delta.id}, now {result.delta.id})")
    output.result({"equal": same, "agrees": agrees, "relative_distance": far})
    return 0 if agrees else 1


def _all_settings(recipe: runs.Recipe, before: runs.Run) -> runs.Recipe:
    """Takes every setting as it was, so that a preset that has changed since does not matter."""
    return replace(recipe, preset=None, settings=before.record["settings"])


def _verdict(before: Delta, after: Delta, far: float) -> str:
    if before.id == after.id:
        return "equal"
    revised = before.provenance.revision != after.provenance.revision
    why = (
        f"; the method was revised since (revision {before.provenance.revision})" if revised else ""
    )
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
