"""``efface attack RUN``: how hard is the erased concept to bring back?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface import registry
from efface.cli import lineage, measuring, runs
from efface.cli.folder import REPORT, locked
from efface.cli.hosts import Placed, is_bundled, load_host, quiet_loading, refuse_readers
from efface.cli.shell import Repeated, parse
from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.cli.folder import RunFolder
    from efface.cli.output import Output
    from efface.concepts import Concept
    from efface.contracts import Judge, Sample, Suite
    from efface.evaluation.attacking import Assault
    from efface.evaluation.revival import AttackRecord

__all__ = ["AttackOptions", "run"]

EVERYTHING = "all"


@dataclass(frozen=True, kw_only=True)
class AttackOptions(Placed):
    """Which run to attack, with what, and what each trial may spend."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    with_: Annotated[Repeated, tyro.conf.arg(name="with")] = ()
    """An attack by name (efface list attacks), or "all"; repeat for several."""
    budget: int = 2000
    """Network evaluations that each trial may take, drawing included."""
    pictures: int = 12
    """Pictures that each trial may draw."""
    trials: int = 8
    """Prompts and seeds that are attacked, each by itself."""
    seed: int = 0
    """Of all draws of the attacks."""
    suite: str | None = None
    """Whose prompts are attacked; by default "emoji" for the bundled model, "basic" for others."""
    judge: str | None = None
    """Who decides whether the concept is back; by default the suite's."""
    judge_folder: Path | None = None
    """Model of a judge that is not bundled."""
    judge_settings: Repeated = ()
    """Another setting of that judge, as name=value; repeat for several."""
    model: str | None = None
    """Another copy of the base model; by default the model that the run names."""
    overwrite: bool = False
    """Attack again where the run holds the same attack already."""


def run(arguments: list[str], output: Output) -> int:
    """Attacks a run; exit code 1 says that an attack could not be measured."""
    options = parse(
        AttackOptions,
        arguments,
        prog="efface attack",
        description="Tries to bring the erased concept of a run back.",
    )
    names = _chosen(options)
    output.after_interrupt = "finished attacks are kept; run the same command again to go on"
    with locked(runs.folder_of(options.source)) as folder:
        recipe = runs.recipe_of(options.source)
        refuse_readers(options.model or recipe.model, "attack")
        pipe = load_host(options.model or recipe.model, output, options)
        *parents, _ = lineage.whole(runs.open_run(options.source))
        with lineage.on_top_of(parents, pipe):
            records = [
                record
                for assault in _assaults(pipe, options, recipe, names[0])
                for record in _attacked(folder, assault, names, options, output)
            ]
        _renew_reports(folder)
    return _tell(folder.path, records, output)


def _tell(folder: Path, records: Sequence[AttackRecord], output: Output) -> int:
    from efface.evaluation.encoding import encoded
    from efface.reports.robustness import attack_table, hardest

    if records:
        output.say(attack_table(records), "", hardest(records))
        output.say(f"pictures and prompts that were found: {folder / 'attacks'}")
    output.result({"run": str(folder), "attacks": [encoded(record) for record in records]})
    return int(not records or any(record.verdict == "invalid" for record in records))


def _chosen(options: AttackOptions) -> tuple[str, ...]:
    """Gives the attacks' names, each once.

    Raises:
        BadRequest: none is named, or one is unknown.
    """
    known = [entry.name for entry in registry.entries("attacks")]
    if not options.with_:
        raise BadRequest(f"name an attack by --with, or --with all; known: {', '.join(known)}")
    if EVERYTHING in options.with_:
        return tuple(known)
    return tuple(dict.fromkeys(registry.find("attacks", name).name for name in options.with_))


def _attacked(
    folder: RunFolder, base: Assault, names: tuple[str, ...], options: AttackOptions, output: Output
) -> Iterator[AttackRecord]:
    """Attacks with each by name; what does not fit the model is said, and the rest goes on."""
    from efface.evaluation.attack_files import packed
    from efface.evaluation.revival import FOLDER
    from efface.evaluation.self_tests import run_attack
    from efface.files import write_atomically

    what = base.concept.name
    for name in names:
        own = replace(base, attack=registry.build("attacks", name))
        path = folder.path / FOLDER / f"{name}-{_slug(what)}.json"
        held = None if options.overwrite else _same(path, own)
        if held is not None:
            output.say(f"{name} on {what}: measured already; --overwrite attacks again")
            yield held
            continue
        try:
            with output.progress(f"attacking {what}: {name}") as bar:
                outcome = run_attack(own, monitor=lambda _, ended, total: bar(ended - 1, total, {}))
        except BadRequest as error:
            output.say(f"{name} on {what}: not done: {error}")
            continue
        path.parent.mkdir(exist_ok=True)
        for suffix, content in packed(outcome).items():
            write_atomically(path.with_suffix(suffix), content)
        outcome.record.save(path)
        yield outcome.record


def _same(path: Path, assault: Assault) -> AttackRecord | None:
    """Gives the record that is there, if it is of this very attack."""
    from efface.evaluation.encoding import encoded
    from efface.evaluation.instruments import identity_of
    from efface.evaluation.revival import AttackRecord

    try:
        held = AttackRecord.load(path)
    except (BadRequest, FileNotFoundError):
        return None
    delta = assault.delta.id if assault.delta else None
    there = (held.delta, held.judge, held.seed, len(held.trials), held.steps, held.verdict)
    asked = (delta, identity_of(assault.judge), assault.seed, len(assault.trials), assault.steps)
    same = there[:-1] == asked and held.verdict != "invalid"
    same = same and held.settings == encoded(asdict(assault.attack))
    return held if same and held.budget == encoded(asdict(assault.budget)) else None


def _assaults(
    pipe: Any, options: AttackOptions, recipe: runs.Recipe, first: str
) -> Iterator[Assault]:
    """Aims the first attack at each erased concept, with the suite's own prompts and sampling."""
    from efface.evaluation.attacking import Assault
    from efface.revival.attempts import Budget

    plan = measuring.Plan(
        suite=options.suite,
        size="short",
        judge=options.judge,
        judge_folder=options.judge_folder,
        judge_settings=options.judge_settings,
    )
    suite = measuring.suite_of(plan, recipe)
    with quiet_loading():
        judge = measuring.judge_for(suite.judge, plan.judge_folder, plan.judge_settings)
    delta = runs.open_run(options.source).delta
    for erasure in recipe.request.erasures:
        yield Assault(
            model=pipe,
            delta=delta,
            concept=_named(erasure.concept, recipe.model),
            trials=_trials(suite, erasure.concept.name, options.trials),
            attack=registry.build("attacks", first),
            judge=judge,
            second=_second(suite.judge),
            budget=Budget(evaluations=options.budget, pictures=options.pictures),
            seed=options.seed,
            steps=suite.steps,
            guidance=suite.guidance,
            others=tuple(f"a picture of {kept.name}" for kept in recipe.request.keep),
            wordings=_wordings(erasure.concept, recipe.model),
        )


def _named(concept: Concept, model: str) -> Concept:
    """Gives a concept with all names that the suite's prompts use for it."""
    if not is_bundled(model):
        return concept
    from efface.evaluation.bench import Bench

    return Bench(model).concept(concept.name)


def _wordings(concept: Concept, model: str) -> tuple[str, ...]:
    """Lists what else a concept is called: synonyms, and what the bundled vocabulary has."""
    if not is_bundled(model):
        return concept.synonyms
    from efface.evaluation.bench import Bench

    return Bench(model).wordings(concept.name)


def _trials(suite: Suite, name: str, count: int) -> tuple[Sample, ...]:
    """Picks prompts and seeds, spread over the suite's.

    Raises:
        BadRequest: it has fewer.
    """
    own = [one for one in suite.samples if one.role == "erased"]
    own = [one for one in own if one.concept is not None and one.concept.name == name]
    if not 1 <= count <= len(own):
        raise BadRequest(f"--trials is {count}; the suite {suite.name} has 1 to {len(own)}")
    return tuple(own[int(place * len(own) / count)] for place in range(count))


def _second(judge: str) -> Judge | None:
    """Gives a second judge where one comes along."""
    return measuring.judge_for("emoji-second", None) if judge == "emoji" else None


def _renew_reports(folder: RunFolder) -> None:
    """Writes the page and the cards again, with what the attacks found, where there are any."""
    from efface import reports
    from efface.deltas.results import CURVES, read_curves
    from efface.evaluation.record import Evaluation
    from efface.evaluation.revival import FOLDER, load_records

    if not (folder.path / measuring.EVALUATION).is_file():
        return
    run = runs.open_run(folder.path)
    curves = read_curves(folder.path) if (folder.path / CURVES).exists() else {}
    found = load_records(folder.path / FOLDER, run.delta.id)
    held = Evaluation.load(folder.path)
    with folder.staged(owned=REPORT) as staging:
        away = os.path.relpath(held.store, folder.path)
        replace(held, store=staging / away).save(staging)
        reports.write_report(staging, held, {**run.record, "curves": curves, "attacks": found})
    runs.record_reports(folder.path, (measuring.EVALUATION, *REPORT))


def _slug(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name)
