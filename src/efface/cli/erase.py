"""``efface erase METHOD``: the method's fields are flags; the result is a run folder."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.cli import lineage, making, measuring, previews, recognising, runs, smoke
from efface.cli.choosing import Choosing, choose, overview
from efface.cli.drawing import sampling_for
from efface.cli.folder import RunFolder, locked
from efface.cli.hosts import Placed, host_for, is_bundled, load_host
from efface.errors import BadRequest, EffaceError
from efface.evaluation.limits import Limits
from efface.runs.recipe import EraseRecipe, StagesRecipe
from efface.runs.workspace import Workspace

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.deltas.delta import Delta

__all__ = ["Erase", "run"]


@dataclass(frozen=True, kw_only=True)
class Erase(Limits, Placed, Choosing):
    """What to erase, from which model, and where to put the result."""

    out: Path
    """Folder of the run: delta, pictures, report and card."""
    after: Path | None = None
    """Run of an earlier request, on top of which this one is made; both are in force together."""
    seed: int = 0
    """Seed of everything the method draws."""
    cache: Path | None = None
    """Folder that remembers keep sets: the next erasure with the same text encoder and keep set
    does not encode it again. The result is the same bit for bit."""
    evaluate: bool = True
    """Measure the result, where a suite for this model exists."""
    smoke: bool = False
    """Keep a few pictures for efface verify, of the bundled model always; others are loaded whole
    for it, where otherwise a folder's text encoder and the weights that read text are enough."""
    resume: bool = False
    """Go on from the checkpoint that an interrupted run of the same command left; of methods that
    train. Steps and step size may be changed."""
    preview: int = 0
    """Every so many steps draw a picture with what was trained so far, always with the same prompt
    and seed, into the run's previews; 0: never."""
    size: str = "standard"
    """How many pictures to measure with; see efface evaluate."""
    test_data: str | None = None
    """Held-out pictures to measure with, for models that read pictures; by default a bundled
    model's own."""
    details: bool = False
    """Print every number of the measurement instead of the five lines that matter."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


def run(arguments: list[str], output: Output) -> int:
    """Erases, saves, and measures unless told not to.

    Exit code 1 says that the result was measured and failed: the delta is kept all the same.
    """
    if not arguments or arguments[0].startswith("-"):
        return overview("erase", arguments, output)
    method, *flags = arguments
    options, choice = choose(method, flags, Erase)
    recognising.check_flags(options.model, options)
    recipe = choice.recipe(options.model, options.request(), options.seed, after=options.after)
    recipe = _with_pictures(recipe, options.images_hash)
    workspace = Workspace(
        cache=options.cache,
        checkpoint=previews.checkpoint_of(options.out),
        resume=options.resume,
    )
    _check(options, recipe, workspace)
    plan = measuring.Plan(
        size=options.size,
        limits=measuring.limits_of(options),
        details=options.details,
        test_data=options.test_data,
        overwrite=options.overwrite,
    )
    reason = (
        measuring.unmeasurable(recipe, options.test_data) if options.evaluate else "not measured"
    )
    if reason is None and not registry.reads_pictures(recipe.model):
        measuring.suite_of(plan, recipe)
    if reason is None and not options.overwrite and _lacks_evaluation(options.out, recipe):
        output.say(f"{options.out} holds this very run, not measured yet; going on with that")
        with locked(options.out) as folder:
            pipe = load_host(options.model, output, options)
            return measuring.measure(folder, pipe, plan, output)
    again = shlex.join(["efface", "erase", *(each for each in arguments if each != "--resume")])
    parents = [run.delta for run in lineage.beneath(recipe)]
    with making.open_new_run(options.out, recipe, overwrite=options.overwrite) as folder:
        pipe = _load(recipe, options, output)
        with lineage.on_top_of(parents, pipe):
            _fill(folder, recipe, pipe, options, workspace, output, again)
        if reason is None:
            return measuring.measure(folder, pipe, plan, output)
    output.say(f"{reason}, so there is no report and no card; {_next(options)}")
    delta = runs.read_delta(options.out).id
    output.result({"run": str(options.out), "delta": delta, "verdict": None})
    return 0


def _with_pictures(
    recipe: EraseRecipe | StagesRecipe, hashes: tuple[str, ...]
) -> EraseRecipe | StagesRecipe:
    """Notes the content of the pictures that were named, or compares it with what was typed.

    Raises:
        MissingInput, BadRequest: see `efface.runs.given.pictured`.
    """
    from efface.runs.given import pictured

    return pictured(recipe, hashes)


def _check(options: Erase, recipe: EraseRecipe | StagesRecipe, workspace: Workspace) -> None:
    """Refuses what can be seen to fail before a model is loaded.

    Raises:
        BadRequest, MissingInput: see `efface.runs.erasing.check`; or previews of nothing.
    """
    from efface.runs.erasing import check

    if options.preview < 0:
        raise BadRequest(f"preview is {options.preview}; it must not be negative")
    check(recipe, workspace)


def _draws(options: Erase) -> bool:
    """Says whether pictures are drawn with what was made."""
    return options.smoke or is_bundled(options.model) or options.preview > 0


def _load(recipe: EraseRecipe | StagesRecipe, options: Erase, output: Output) -> Any:
    """Loads as much of the model as is needed; earlier requests take the whole."""
    whole = _draws(options) or bool(recipe.after)
    return host_for(options.model, recipe.method, output, options, pictures=whole)


def _fill(
    folder: RunFolder,
    recipe: EraseRecipe | StagesRecipe,
    pipe: Any,
    options: Erase,
    workspace: Workspace,
    output: Output,
    again: str,
) -> None:
    """Writes the run."""
    place = previews.checkpoint_of(options.out)

    def advice() -> str:
        if any(place.rglob("*.safetensors")):
            return f"what was trained is in {place}; go on with: {again} --resume"
        return f"nothing was written; run again: {again}"

    output.after_interrupt = advice
    watch = None
    if options.preview:
        watch = previews.previewing(
            folder.path, pipe, recipe, options.preview, resume=options.resume
        )
    result = making.perform(recipe, pipe, output, watch=watch, workspace=workspace)
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()
    trouble: EffaceError | KeyboardInterrupt | None = None
    with folder.staged(keep=[previews.FOLDER] if options.preview else []) as staging:
        result.save(staging)
        try:
            if _draws(options):
                _keep_pictures(staging, pipe, result.delta, recipe, output)
        except (EffaceError, KeyboardInterrupt) as error:  # What was trained is not lost with it.
            trouble = error
            shutil.rmtree(staging / smoke.FOLDER, ignore_errors=True)
    output.after_interrupt = f"the delta is saved; go on with: efface evaluate {options.out}"
    if trouble is not None:
        raise trouble
    output.say(f"erased in {result.seconds:.1f} s: {options.out / runs.DELTA}")
    output.say(*result.diagnostics.get("notes", ()))
    output.say(*_cache_lines(result.diagnostics.get("keep_cache"), options.cache))


def _next(options: Erase) -> str:
    """Says how a run that was not measured is looked at."""
    if is_bundled(options.model) or options.model in registry.VISION:
        return f"to measure it: efface evaluate {options.out}"
    if registry.reads_pictures(options.model):
        return f"to measure it: efface evaluate {options.out} --test-data FOLDER"
    return (
        f"to see it: efface apply {options.out} --prompt TEXT --out FILE.png; to measure it with a "
        f"CLIP model: efface evaluate {options.out} --judge zero_shot --judge-folder FOLDER"
    )


def _cache_lines(told: Mapping[str, Any] | None, folder: Path | None) -> list[str]:
    """Says how many kept prompts came from the cache, and what was wrong with its files."""
    if told is None:
        return []
    every = told["found"] + told["encoded"]
    if not every:
        return [f"nothing was cached in {folder}: no --keep was given"]
    return [*told["notes"], f"{told['found']} of {every} kept prompts came from {folder}"]


def _keep_pictures(
    folder: Path, pipe: Any, delta: Delta, recipe: runs.Recipe, output: Output
) -> None:
    shots = smoke.shots_for(recipe.request)
    sampling = sampling_for(recipe.model, steps=smoke.STEPS)
    with output.progress("drawing the smoke set") as monitor:
        smoke.write_smoke(folder, smoke.drawn(pipe, delta, shots, sampling, monitor), sampling)


def _lacks_evaluation(out: Path, recipe: runs.Recipe) -> bool:
    """Tells the run of this very command, which was killed before it was measured."""
    if not (out / runs.RECORD).is_file() or (out / measuring.EVALUATION).exists():
        return False
    try:
        return runs.recipe_of(out) == recipe
    except EffaceError:
        return False
