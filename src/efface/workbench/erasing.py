"""An erasure put into its run folder: done, scaled to a goal, saved, with a few pictures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadRequest, EffaceError, MeasurementFailed
from efface.runs.recipe import EraseRecipe, StagesRecipe
from efface.workbench import making, measuring, previews, runs, smoke
from efface.workbench.drawing import sampling_for

if TYPE_CHECKING:
    from efface.deltas.delta import Delta
    from efface.deltas.results import ErasureResult
    from efface.evaluation.strength import Goal, Search
    from efface.runs.workspace import Workspace
    from efface.workbench.folder import RunFolder
    from efface.workbench.telling import Telling

__all__ = ["Keeping", "fill", "search_lines", "write_scaled"]


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What a run keeps beside its delta, and how it is scaled."""

    pictures: bool = True
    """Whether a few are drawn for efface verify."""
    preview: int = 0
    resume: bool = False
    cache: Path | None = None
    goal: Goal | None = None
    """What a search for the delta's strength is to reach; None: there is none."""
    measuring: measuring.Plan = field(default_factory=measuring.Plan)
    """Who looks in that search."""


def fill(
    folder: RunFolder,
    recipe: EraseRecipe | StagesRecipe,
    pipe: Any,
    keeping: Keeping,
    workspace: Workspace,
    output: Telling,
    *,
    again: str,
    onward: str,
) -> ErasureResult:
    """Erases and writes the run.

    Args:
        folder: of the run.
        recipe: everything that decides the delta, but for what the goal decides.
        pipe: the model, with earlier requests in force.
        keeping: what is kept beside the delta.
        workspace: of the erasure.
        output: told how it goes.
        again: what to do after an interrupt, where nothing was written.
        onward: what to do where a checkpoint is left.

    Raises:
        MeasurementFailed: no strength reached the goal; nothing is written then.
    """
    out = folder.path
    place = previews.checkpoint_of(out)

    def advice() -> str:
        if any(place.rglob("*.safetensors")):
            return f"what was trained is in {place}; go on with: {onward}"
        return f"nothing was written; run again: {again}"

    output.after_interrupt = advice
    watch = None
    if keeping.preview:
        watch = previews.previewing(out, pipe, recipe, keeping.preview, resume=keeping.resume)
    result = making.perform(recipe, pipe, output, watch=watch, workspace=workspace)
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()
    if keeping.goal is not None:
        result = _reaching(keeping, result, recipe, pipe, output)
    _write(folder, result, recipe, pipe, keeping, output)
    output.say(f"erased in {result.seconds:.1f} s: {out / runs.DELTA}")
    output.say(*result.diagnostics.get("notes", ()))
    output.say(*_cache_lines(result.diagnostics.get("keep_cache"), keeping.cache))
    return result


def _write(
    folder: RunFolder,
    result: ErasureResult,
    recipe: EraseRecipe | StagesRecipe,
    pipe: Any,
    keeping: Keeping,
    output: Telling,
) -> None:
    """Writes the run; where its pictures cannot be drawn, what was made is kept all the same."""
    trouble: EffaceError | KeyboardInterrupt | None = None
    with folder.staged(keep=[previews.FOLDER] if keeping.preview else []) as staging:
        result.save(staging)
        try:
            if keeping.pictures:
                _keep_pictures(staging, pipe, result.delta, recipe, output)
        except (EffaceError, KeyboardInterrupt) as error:  # What was trained is not lost with it.
            trouble = error
            shutil.rmtree(staging / smoke.FOLDER, ignore_errors=True)
    output.after_interrupt = f"the delta is saved; go on with: efface evaluate {folder.path}"
    if trouble is not None:
        raise trouble


def write_scaled(source: Path, out: Path, scale: float, pipe: Any, output: Telling) -> None:
    """Writes a run's delta, scaled, as a run of its own that says how to repeat it.

    Raises:
        BadRequest: the run was not made by a method, stands on others, or the place is taken.
        NothingChanged, ModelCollapsed: see `efface.runs.checks.inspect`.
    """
    from efface.deltas.results import ErasureResult
    from efface.runs.checks import stamped
    from efface.runs.erasing import scaled_run

    recipe = runs.recipe_of(source)
    if not isinstance(recipe, EraseRecipe | StagesRecipe) or recipe.after:
        raise BadRequest(
            f"{source.name} is a run of kind {recipe.kind}, or stands on another run; only what a "
            "method made on the bare base is scaled into a run of its own"
        )
    whole = replace(recipe, delta_scale=recipe.delta_scale * scale)
    with making.open_new_run(out, whole, overwrite=False, reads=[source]) as folder:
        result = scaled_run(pipe, ErasureResult.load(source), replace(recipe, delta_scale=scale))
        making.write_run(folder, stamped(result, whole))
    output.say(f"wrote {out}")


def search_lines(search: Search) -> list[str]:
    """Says what each strength left."""
    words = {"below": "enough", "above": "too weak", None: "not decided"}
    return [
        f"strength {one.strength:g}: left in {one.hits} of {one.count} pictures "
        f"({one.low:.1%} to {one.high:.1%}): {words[one.side]}"
        for one in search.tries
    ]


def _reaching(
    keeping: Keeping,
    result: ErasureResult,
    recipe: EraseRecipe | StagesRecipe,
    pipe: Any,
    output: Telling,
) -> ErasureResult:
    """Scales a result to the least strength that reaches a goal."""
    from efface.evaluation.strength import strength_for
    from efface.runs.erasing import scaled_run

    goal, plan = keeping.goal, replace(keeping.measuring, size="short")
    assert goal is not None
    suite = measuring.suite_of(plan, recipe)
    judge = measuring.judge_of(plan, suite)
    with output.progress("finding the strength") as monitor:
        search = strength_for(
            pipe, result.delta, suite, judge, goal, seed=recipe.seed, monitor=monitor
        )
    output.say(*search_lines(search))
    if search.strength is None:
        raise MeasurementFailed(
            f"no strength left the concept in at most {goal.left:.0%} of pictures "
            f"({'; '.join(search_lines(search))}); nothing was written: raise --budget, or choose "
            "a stronger method or preset"
        )
    notes = {"strength_search": [asdict(one) for one in search.tries]}
    result = replace(result, diagnostics={**result.diagnostics, **notes})
    if search.strength == 1.0:
        return result
    return scaled_run(pipe, result, replace(recipe, delta_scale=search.strength))


def _keep_pictures(
    folder: Path, pipe: Any, delta: Delta, recipe: runs.Recipe, output: Telling
) -> None:
    shots = smoke.shots_for(recipe.request)
    sampling = sampling_for(recipe.model, steps=smoke.STEPS)
    with output.progress("drawing the smoke set") as monitor:
        smoke.write_smoke(folder, smoke.drawn(pipe, delta, shots, sampling, monitor), sampling)


def _cache_lines(told: Mapping[str, Any] | None, folder: Path | None) -> list[str]:
    """Says how many kept prompts came from the cache, and what was wrong with its files."""
    if told is None:
        return []
    every = told["found"] + told["encoded"]
    if not every:
        return [f"nothing was cached in {folder}: no --keep was given"]
    return [*told["notes"], f"{told['found']} of {every} kept prompts came from {folder}"]
