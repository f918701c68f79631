"""``efface erase METHOD``: the method's fields are flags; the result is a run folder."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.cli.asking import Placed
from efface.cli.choosing import Choosing, choose, overview
from efface.errors import BadModel, BadRequest, EffaceError
from efface.evaluation.limits import Limits
from efface.runs.recipe import EraseRecipe, Recipe, StagesRecipe
from efface.runs.workspace import Workspace
from efface.workbench import lineage, making, measuring, previews, recognising, runs
from efface.workbench.erasing import Keeping, fill
from efface.workbench.folder import locked
from efface.workbench.models import does_not_fit, host_for, is_bundled, is_whole, load_host

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.evaluation.strength import Goal

__all__ = ["Erase", "run", "with_goal"]


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
    """Measure the result. Where no judge knows the concept, a few pictures are drawn before and
    after, for a report and a card that say that nothing was measured; the whole model is loaded for
    it, if it fits."""
    judge: str | None = None
    """Who decides what is in a picture: a folder with a CLIP model will do, on any model. By
    default the bundled model's own."""
    smoke: bool = False
    """Keep a few pictures for efface verify, of the bundled model always; others are loaded whole
    for it, where otherwise a folder's text encoder and the weights that read text are enough."""
    resume: bool = False
    """Go on from the checkpoint that an interrupted run of the same command left; of methods that
    train. Steps and step size may be changed."""
    preview: int = 0
    """Every so many steps draw a picture with what was trained so far, always with the same prompt
    and seed, into the run's previews; 0: never."""
    delta_scale: float = 1.0
    """How much of what the method makes is taken; 1 is the whole change."""
    goal: float | None = None
    """Take as little of the change as leaves the concept in at most this share of its pictures,
    such as 0.05: drawn and judged, one strength after another, until intervals decide. A number
    after --target means the same, where words are a method's own."""
    budget: int = 3
    """Strengths that a search for the goal tries, at most."""
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

    Exit code 1 says that the result was measured and failed: the delta is kept all the same. Where
    nobody judged it, the code is 0, unless the pictures or the detectors show a wreck.
    """
    if not arguments or arguments[0].startswith("-"):
        return overview("erase", arguments, output)
    method, *flags = arguments
    options, choice = choose(method, with_goal(flags), Erase)
    recognising.check_flags(options.model, options)
    recipe = choice.recipe(options.model, options.request(), options.seed, after=options.after)
    recipe = replace(_with_pictures(recipe, options.images_hash), **_asked(options))
    workspace = Workspace(
        cache=options.cache,
        checkpoint=previews.checkpoint_of(options.out),
        resume=options.resume,
    )
    _check(options, recipe, workspace)
    judge, folder_of_judge = measuring.named_judge(options.judge)
    plan = measuring.Plan(
        judge=judge,
        judge_folder=folder_of_judge,
        size=options.size,
        limits=measuring.limits_of(options),
        details=options.details,
        test_data=options.test_data,
        overwrite=options.overwrite,
    )
    reason = _unmeasured(options, recipe, plan, output)
    looks = options.evaluate and measuring.looks(recipe, plan)
    if (looks or reason is None) and not registry.reads_pictures(recipe.model):
        measuring.check_plan(plan, recipe)
    if (
        (looks or reason is None)
        and not options.overwrite
        and _lacks_evaluation(options.out, recipe)
    ):
        output.say(f"{options.out} holds this very run, not measured yet; going on with that")
        with locked(options.out) as folder:
            pipe = load_host(options.model, output, options)
            return measuring.measure(folder, pipe, plan, output)
    again = shlex.join(["efface", "erase", *(each for each in arguments if each != "--resume")])
    hints = {"again": again, "onward": f"{again} --resume"}
    goal = _goal(options, recipe, reason)
    whole = _draws(options) or bool(recipe.after) or reason is None
    parents = [run.delta for run in lineage.beneath(recipe)]
    with making.open_new_run(options.out, recipe, overwrite=options.overwrite) as folder:
        pipe = host_for(options.model, recipe.method, output, options, pictures=whole)
        with lineage.on_top_of(parents, pipe):
            fill(folder, recipe, pipe, _kept(options, goal, plan), workspace, output, **hints)
        if looks and not is_whole(pipe):
            del pipe  # Its text side is not held beside the whole model.
            pipe, reason = _drawn_with(options, output)
        if reason is None or (looks and pipe is not None):
            return measuring.measure(folder, pipe, plan, output)
    output.say(f"{reason}, so there is no report and no card; {_next(options)}")
    delta = runs.read_delta(options.out).id
    output.result({"run": str(options.out), "delta": delta, "verdict": None})
    return 0


def _unmeasured(
    options: Erase, recipe: runs.Recipe, plan: measuring.Plan, output: Output
) -> str | None:
    """Says why nothing is measured; None where it is. Unknown words are said in either case."""
    if (unknown := measuring.untaught(recipe)) is not None:
        output.say(unknown)
    return measuring.unmeasurable(recipe, plan) if options.evaluate else "not measured"


def _asked(options: Erase) -> dict[str, Any]:
    """Gives what a recipe says beside method, request and seed."""
    return {"delta_scale": options.delta_scale, **options.recorded()}


def _drawn_with(options: Erase, output: Output) -> tuple[Any, str | None]:
    """Loads the whole of a model whose text side was edited alone, or says why it cannot draw."""
    if (unfit := does_not_fit(options.model, options)) is not None:
        return None, unfit
    try:
        return load_host(options.model, output, options), "not measured"
    except BadModel as error:  # The delta is made, and of use all the same.
        return None, f"no picture was drawn: {error}"


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


def with_goal(flags: list[str]) -> list[str]:
    """Reads a number after ``--target`` as the goal; methods' own targets are words."""
    found = [word.replace("--target=", "--goal=", 1) if _numbered(word) else word for word in flags]
    for place, (word, value) in enumerate(pairwise(flags)):
        if word == "--target" and _numbered(f"--target={value}"):
            found[place] = "--goal"
    return found


def _numbered(word: str) -> bool:
    name, _, value = word.partition("=")
    try:
        return name == "--target" and math.isfinite(float(value))
    except ValueError:
        return False


def _goal(options: Erase, recipe: Recipe, reason: str | None) -> Goal | None:
    """Says what a search for the strength is to reach.

    Raises:
        BadRequest: there is no judge to look, a scale is given too, or the goal is no share.
    """
    if options.goal is None:
        return None
    from efface.evaluation.strength import Goal

    goal = Goal(left=options.goal, budget=options.budget)
    if registry.reads_pictures(recipe.model):
        raise BadRequest(
            f"{recipe.model} reads pictures, and --goal draws them; scale by --delta-scale"
        )
    if options.delta_scale != 1.0:
        raise BadRequest("--goal finds the scale, and --delta-scale gives it; give one of both")
    if reason is not None:
        raise BadRequest(f"--goal looks at pictures with a judge, and this run is {reason}")
    return goal


def _kept(options: Erase, goal: Goal | None, plan: measuring.Plan) -> Keeping:
    """Says what the run keeps beside its delta."""
    return Keeping(
        pictures=_draws(options),
        preview=options.preview,
        resume=options.resume,
        cache=options.cache,
        goal=goal,
        measuring=plan,
    )


def _next(options: Erase) -> str:
    """Says how a run that was not measured is looked at."""
    if is_bundled(options.model) or options.model in registry.VISION:
        return f"to measure it: efface evaluate {options.out}"
    if registry.reads_pictures(options.model):
        return f"to measure it: efface evaluate {options.out} --test-data FOLDER"
    return (
        f"pictures, report and card: efface evaluate {options.out}, measured by a CLIP model with "
        "--judge FOLDER"
    )


def _lacks_evaluation(out: Path, recipe: runs.Recipe) -> bool:
    """Tells the run of this very command, which was killed before it was measured."""
    if not (out / runs.RECORD).is_file() or (out / measuring.EVALUATION).exists():
        return False
    try:
        return runs.recipe_of(out) == recipe
    except EffaceError:
        return False
