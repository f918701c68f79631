"""Measures a run: suite and instruments by name, then table, report, card and verdict."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.errors import BadRequest, MissingInput
from efface.evaluation.limits import Limits
from efface.workbench import keeping, lineage, recognising, runs
from efface.workbench.drawing import sampling_for
from efface.workbench.folder import REPORT
from efface.workbench.models import is_bundled, quiet_loading, unknown_words

if TYPE_CHECKING:
    from efface.contracts import Guide, Judge, Suite
    from efface.evaluation.record import Evaluation
    from efface.workbench.folder import RunFolder
    from efface.workbench.telling import Telling

__all__ = [
    "EVALUATION",
    "Plan",
    "check_plan",
    "judge_for",
    "judge_names",
    "judge_of",
    "limits_of",
    "looks",
    "measure",
    "named_judge",
    "suite_of",
    "unmeasurable",
]

EVALUATION = keeping.EVALUATION


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to measure; None stands for what goes with the model."""

    suite: str | None = None
    size: str = "standard"
    judge: str | None = None
    judge_folder: Path | None = None
    judge_settings: tuple[str, ...] = ()
    """Each ``name=value``."""
    clip: Path | None = None
    metrics: tuple[str, ...] = ()
    pictures: Path | None = None
    limits: Limits = field(default_factory=Limits)
    test_data: str | None = None
    """Held-out pictures, for models that read pictures."""
    details: bool = False
    """Whether to print the whole table."""
    overwrite: bool = False
    """Whether to replace a larger measurement by a smaller one."""
    guides: tuple[Guide, ...] = ()
    """What steers sampling after the erasure."""

    @property
    def says_how(self) -> bool:
        """Whether anything was named that only makes sense with a judge."""
        named = (self.suite, self.judge, self.judge_folder, self.judge_settings, self.metrics)
        return any(named)


def unmeasurable(recipe: runs.Recipe, plan: Plan | None = None) -> str | None:
    """Says why a run cannot be measured by what was named; None when it can."""
    plan = plan or Plan()
    if registry.reads_pictures(recipe.model):
        return recognising.unmeasurable(recipe, plan.test_data)
    if plan.says_how:
        return None
    if not is_bundled(recipe.model):
        return "not measured: that needs a judge for this model"
    unknown = unknown_words(recipe.request)
    return (
        f"not measured: the bundled judge does not know {', '.join(unknown)}" if unknown else None
    )


def untaught(recipe: runs.Recipe) -> str | None:
    """Says which words a bundled model that draws was never taught; None where it knows all."""
    unknown = unknown_words(recipe.request) if is_bundled(recipe.model) else []
    return f"{recipe.model} was never taught {', '.join(unknown)}" if unknown else None


def looks(recipe: runs.Recipe, plan: Plan) -> bool:
    """Says whether pictures are drawn that nobody judges: it draws, and no judge knows it."""
    return not registry.reads_pictures(recipe.model) and unmeasurable(recipe, plan) is not None


def measure(folder: RunFolder, pipe: Any, plan: Plan, output: Telling) -> int:
    """Draws what is missing, scores, writes the report and prints what matters.

    Where no judge knows the concept, a few pictures are drawn and the verdict is "not measured".
    Gives exit code 1 when the verdict is invalid, or the erasure failed by the limits.

    Raises:
        BadRequest: an unknown suite, judge or metric, a larger measurement that is there, or an
            attack's record that was changed since.
        MissingInput: a judge or metric needs a folder that was not given.
    """
    from efface import evaluation
    from efface.deltas.results import CURVES, read_curves
    from efface.evaluation.images import ImageStore
    from efface.evaluation.revival import FOLDER, load_records

    run = runs.open_run(folder.path)
    if others := runs.other_attacks(run):
        raise BadRequest(
            f"{folder.path / others[0]} is not what was written when the run was attacked, so no "
            f"report is made with it; attack again: efface attack {folder.path} --overwrite"
        )
    told = {
        "curves": read_curves(folder.path) if (folder.path / CURVES).exists() else {},
        "attacks": load_records(folder.path / FOLDER, run.delta.id),
    }
    recipe = runs.recipe_of(folder.path)
    if registry.reads_pictures(recipe.model):
        if plan.guides:
            raise BadRequest(f"{recipe.model} draws nothing that --guide could steer; leave it out")
        found = recognising.measured(folder.path, pipe, plan, output)
        return _report(folder, found, {**run.record, **told}, plan, output)
    unjudged = looks(recipe, plan)
    suite = _look(recipe) if unjudged else suite_of(plan, recipe)
    keeping.refuse_to_shrink(folder.path, suite, run.delta.id, plan)
    judge = None if unjudged else judge_of(plan, suite)
    clip = None if unjudged else _clip(plan, judge_name=suite.judge)
    store = ImageStore(plan.pictures or folder.path.absolute().parent / ".pictures")
    *parents, _ = lineage.whole(run)
    with lineage.on_top_of(parents, pipe), output.progress("drawing and judging") as monitor:
        found = evaluation.evaluate(
            pipe,
            run.delta,
            suite,
            judge,
            clip=clip,
            store=store,
            limits=plan.limits,
            monitor=monitor,
            guides=plan.guides,
        )
    return _report(folder, found, {**run.record, **told}, plan, output)


def _report(
    folder: RunFolder,
    found: Evaluation,
    facts: Mapping[str, Any],
    plan: Plan,
    output: Telling,
) -> int:
    """Writes the reports and prints what matters; gives the exit code."""
    from efface import reports
    from efface.evaluation.outcome import failed

    with folder.staged(owned=REPORT) as staging:
        away = os.path.relpath(found.store, folder.path)
        replace(found, store=staging / away).save(staging)
        reports.write_report(staging, found, facts)
    runs.record_reports(folder.path, (EVALUATION, *REPORT))
    _tell(folder.path, found, plan, output)
    return 1 if failed(found) else 0


def limits_of(options: Limits) -> Limits:
    """Takes the limits from a verb's flags, which have them among others."""
    return Limits(**{each.name: getattr(options, each.name) for each in fields(Limits)})


def judge_of(plan: Plan, suite: Suite) -> Judge:
    """Builds the judge of a suite, as the plan names it.

    One that tells a concept from its neighbours is given those of the suite: what it erases, keeps
    and calls near.

    Raises:
        BadRequest, MissingInput: see `judge_for`.
    """
    settings = plan.judge_settings
    with quiet_loading():
        if suite.judge == "zero_shot" and not any(
            each.startswith(("neighbours=", "alternatives=")) for each in settings
        ):
            asked = (sample.concept for sample in suite.samples if sample.concept)
            near = dict.fromkeys(concept.name for concept in asked)
            settings = (*settings, *(f"neighbours={name}" for name in near))
        return judge_for(suite.judge, plan.judge_folder, settings)


def check_plan(plan: Plan, recipe: runs.Recipe) -> None:
    """Refuses a measurement that cannot be, before any work.

    Raises:
        BadRequest, MissingInput: see `suite_of` and `judge_for`.
        BadModel: the folder of a judge holds no model of its kind.
    """
    if looks(recipe, plan):
        return
    suite = suite_of(plan, recipe)
    if plan.judge is not None:
        judge_of(plan, suite)


def named_judge(name: str | None) -> tuple[str | None, Path | None]:
    """Reads a judge as it is named: a folder with a CLIP model is a judge of its own."""
    if name is not None and name not in judge_names() and Path(name).is_dir():
        return "zero_shot", Path(name)
    return name, None


def judge_names() -> list[str]:
    """Lists the bundled judges and those found by file name."""
    return [*registry.BUNDLED_JUDGES, *(entry.name for entry in registry.entries("judges"))]


def judge_for(name: str, folder: Path | None, settings: Sequence[str] = ()) -> Judge:
    """Builds a judge by name.

    Args:
        name: a bundled judge, or one of the registry.
        folder: of its model, for judges with a setting of that name.
        settings: others, each ``name=value``; a name comes again for each value of a tuple.

    Raises:
        BadRequest: there is no judge or setting of that name, the text suggests one; or a value is
            not of the setting's type.
        MissingInput: a setting without a default, such as the model's folder, was not given.
    """
    if name in registry.BUNDLED_JUDGES:
        if settings:
            raise BadRequest(f"the judge {name} has no settings; leave out {' '.join(settings)}")
        from efface.bundled.judges import bundled_judge

        bundled: Judge = bundled_judge(name)
        return bundled
    known = judge_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise BadRequest(f"there is no judge called '{name}'; {hint}known: {', '.join(known)}")
    entry = registry.find("judges", name)
    given = _settings_given(entry, settings)
    if folder is not None:
        given["folder"] = folder
    names = {setting.name for setting in entry.settings}
    lacking = [s.name for s in entry.settings if s.default is None and s.name not in given]
    if given.keys() - names:
        lacking = []  # Which is said first, with the name that was meant.
    if "folder" in lacking:
        raise MissingInput(f"the judge {name} needs a model: give --judge-folder FOLDER")
    if lacking:
        raise MissingInput(
            f"the judge {name} needs {', '.join(lacking)}: give --judge-settings {lacking[0]}=..."
        )
    built: Judge = registry.build("judges", name, **given)
    return built


def _settings_given(entry: registry.Entry, written: Sequence[str]) -> dict[str, Any]:
    """Reads ``name=value`` as the types of an entry's settings."""
    types = {setting.name: setting.type for setting in entry.settings}
    read: dict[str, Callable[[str], Any]] = {"float": float, "int": int, "Path": Path}
    given: dict[str, Any] = {}
    for each in written:
        name, equals, value = each.partition("=")
        if not equals:
            raise BadRequest(f"--judge-settings {each} is not of the form name=value")
        try:
            found = read.get(types.get(name, "str"), str)(value)
        except ValueError:
            raise BadRequest(f"{name} of {entry.name} is {types[name]}, not '{value}'") from None
        several = types.get(name, "").startswith("tuple")
        given[name] = (*given.get(name, ()), found) if several else found
    return given


def suite_of(plan: Plan, recipe: runs.Recipe) -> Suite:
    """Gives what would be drawn and measured by a judge.

    Raises:
        BadRequest: an unknown suite, size or metric, or a concept that the suite cannot measure.
    """
    from efface.evaluation.suites import suite_for

    known = is_bundled(recipe.model)
    usual = getattr(registry.bundled(recipe.model), "SUITE", "emoji") if known else "basic"
    suite = suite_for(plan.suite or usual, recipe.request, size=plan.size)
    own = registry.bundled(recipe.model).JUDGE if known and suite.judge == "emoji" else suite.judge
    suite = replace(suite, judge=plan.judge or own)
    if not plan.metrics:
        return suite
    found = {name: registry.load("metrics", name) for name in plan.metrics}
    per_image = tuple(name for name, metric in found.items() if hasattr(metric, "scores"))
    per_set = tuple(name for name in found if name not in per_image)
    return replace(suite, image_metrics=per_image, set_metrics=per_set)


def _look(recipe: runs.Recipe) -> Suite:
    """Gives a few pictures to draw where nobody judges."""
    from efface.evaluation.looking import look_suite

    if not is_bundled(recipe.model):
        return look_suite(recipe.request)
    sampling = sampling_for(recipe.model)
    return look_suite(recipe.request, steps=sampling.steps, guidance=sampling.guidance)


def _clip(plan: Plan, *, judge_name: str) -> Any:
    """Gives what CLIP scores are measured with: the folder's model, or the bundled one."""
    folder = plan.clip or (plan.judge_folder if judge_name == "zero_shot" else None)
    if folder is not None:
        from efface.hosts.clip import FolderClip

        with quiet_loading():
            return FolderClip(folder)
    if judge_name in registry.BUNDLED_JUDGES:
        from efface.bundled.clip import EmojiClip

        return EmojiClip()
    return None


def _used(found: Evaluation, folder: Path) -> str:
    """Says how a delta is drawn with, of models that draw."""
    drawn = found.model_kind == "generator"
    return f"; draw with it: efface apply {folder} --prompt '...'" if drawn else ""


def _tell(folder: Path, found: Evaluation, plan: Plan, output: Telling) -> None:
    from efface.reports import console_summary, console_table

    output.say(console_table(found) if plan.details else console_summary(found))
    output.say(
        "",
        f"report  {folder / 'report.html'} (open it in a browser)",
        f"card    {folder / 'card.md'}",
        f"delta   {folder / runs.DELTA}{_used(found, folder)}",
    )
    if not plan.details and found.verdict != "not measured":
        output.say(f"all     every number, by: efface evaluate {folder} --details")
    if found.verdict == "not measured":
        output.say(
            "judge   none yet: a CLIP model in a folder is one, by: "
            f"efface evaluate {folder} --judge FOLDER"
        )
    outcome = found.outcome
    output.result(
        {
            "run": str(folder),
            "delta": found.after.delta if found.after else None,
            "verdict": found.verdict,
            "outcome": None if outcome is None else outcome.name,
            "reasons": [*found.reasons, *(() if outcome is None else outcome.reasons)],
            "notes": found.notes,
            "evaluation": str(folder / EVALUATION),
        }
    )
