"""``efface erase METHOD``: the method's fields are flags; the result is a run folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.cli import measuring, previews, runs, smoke
from efface.cli.choosing import Choosing, choose, overview
from efface.cli.drawing import sampling_for
from efface.cli.folder import RunFolder, locked
from efface.cli.hosts import Wanted, host_for, is_bundled, request_for
from efface.errors import BadRequest
from efface.evaluation.limits import Limits

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.deltas.delta import Delta

__all__ = ["Erase", "run"]


@dataclass(frozen=True, kw_only=True)
class Erase(Limits, Choosing):
    """What to erase, from which model, and where to put the result."""

    out: Path
    """Folder of the run: delta, pictures, report and card."""
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
    if options.preview < 0:
        raise BadRequest(f"preview is {options.preview}; it must not be negative")
    again = shlex.join(["efface", "erase", *(each for each in arguments if each != "--resume")])
    wanted = Wanted(
        concepts=options.concept, kind=options.kind, anchor=options.anchor, keep=options.keep
    )
    request = request_for(options.model, wanted)
    recipe = runs.Recipe(
        model=options.model,
        method=choice.name,
        preset=choice.preset,
        settings=choice.given,
        seed=options.seed,
        request=request,
    )
    plan = measuring.Plan(
        size=options.size,
        limits=measuring.limits_of(options),
        details=options.details,
        overwrite=options.overwrite,
    )
    reason = measuring.unmeasurable(recipe) if options.evaluate else "not measured"
    if reason is None:
        measuring.suite_of(plan, recipe)
    with locked(options.out) as folder:
        _refuse_to_replace(options)
        pipe = _fill(folder, recipe, options, output, again)
        if reason is None:
            return measuring.measure(folder, pipe, plan, output)
    output.say(f"{reason}; to measure it later, see: efface evaluate --help")
    delta = runs.read_delta(options.out).id
    output.result({"run": str(options.out), "delta": delta, "verdict": None})
    return 0


def _fill(
    folder: RunFolder, recipe: runs.Recipe, options: Erase, output: Output, again: str
) -> Any:
    """Writes the run; gives the model."""
    pictures = options.smoke or is_bundled(options.model)
    pictures = pictures or options.preview > 0
    pipe = host_for(options.model, recipe.method, output, pictures=pictures)
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
    result = runs.erase(
        pipe,
        recipe,
        output,
        watch=watch,
        cache=options.cache,
        checkpoint=place,
        resume=options.resume,
    )
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()
    with folder.staged() as staging:
        result.save(staging)
        runs.extend_record(staging, recipe)
        measuring.forget(folder.path)
        if not options.preview:
            previews.forget(folder.path)
    output.after_interrupt = f"the delta is saved; go on with: efface evaluate {options.out}"
    output.say(f"erased in {result.seconds:.1f} s: {options.out / runs.DELTA}")
    output.say(*_cache_lines(result.diagnostics.get("keep_cache"), options.cache))
    if pictures:
        _keep_pictures(folder, pipe, result.delta, recipe, output)
    return pipe


def _cache_lines(told: Mapping[str, Any] | None, folder: Path | None) -> list[str]:
    """Says how many kept prompts came from the cache, and what was wrong with its files."""
    if told is None:
        return []
    every = told["found"] + told["encoded"]
    if not every:
        return [f"nothing was cached in {folder}: no --keep was given"]
    return [*told["notes"], f"{told['found']} of {every} kept prompts came from {folder}"]


def _keep_pictures(
    folder: RunFolder, pipe: Any, delta: Delta, recipe: runs.Recipe, output: Output
) -> None:
    shots = smoke.shots_for(recipe.request)
    sampling = sampling_for(recipe.model, steps=smoke.STEPS)
    with folder.staged() as staging, output.progress("drawing the smoke set") as monitor:
        smoke.write_smoke(staging, smoke.drawn(pipe, delta, shots, sampling, monitor), sampling)


def _refuse_to_replace(options: Erase) -> None:
    if (options.out / runs.RECORD).exists() and not options.overwrite:
        raise BadRequest(
            f"{options.out} already holds a run; give another --out, or --overwrite to replace it"
        )
