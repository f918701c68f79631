"""Attacks on runs: aimed at each erased concept, kept in the run's folder, told in its reports."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.errors import BadRequest
from efface.workbench import measuring, runs
from efface.workbench.folder import REPORT
from efface.workbench.models import is_bundled

if TYPE_CHECKING:
    from efface.concepts import Concept
    from efface.contracts import Judge, Sample, Suite
    from efface.evaluation.attacking import Assault, See
    from efface.evaluation.revival import AttackRecord
    from efface.revival.attempts import Budget
    from efface.workbench.folder import RunFolder
    from efface.workbench.telling import Telling

__all__ = ["Aim", "assaults", "attacked_with", "renew_reports"]


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Which run to attack, and what each trial may spend."""

    source: Path
    budget: int = 2000
    """Network evaluations of each trial, drawing included."""
    pictures: int = 12
    trials: int = 8
    seed: int = 0
    suite: str | None = None
    judge: str | None = None
    judge_folder: Path | None = None
    judge_settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what cannot be spent, before a model is loaded.

        Raises:
            BadRequest: not even one picture could be drawn.
        """
        self.spends()

    def spends(self) -> Budget:
        """Gives what each trial may spend."""
        from efface.revival.attempts import Budget

        return Budget(evaluations=self.budget, pictures=self.pictures)


def attacked_with(
    folder: RunFolder,
    base: Assault,
    names: Sequence[str],
    output: Telling,
    *,
    overwrite: bool = False,
    seen: See | None = None,
) -> Iterator[AttackRecord]:
    """Attacks with each by name; what does not fit the model is said, and the rest goes on.

    Raises:
        BadRequest: the run holds one of them with more trials or a larger budget, or one that was
            changed since it was written.
    """
    from efface.evaluation.attack_files import packed
    from efface.evaluation.attacking import unseen
    from efface.evaluation.revival import FOLDER
    from efface.evaluation.self_tests import run_attack
    from efface.files import write_atomically

    what = base.concept.name
    paths = {name: folder.path / FOLDER / f"{name}-{_slug(what)}.json" for name in names}
    if others := [] if overwrite else _others(folder.path, paths.values()):
        raise BadRequest(
            f"{others[0]} is not what was written when the run was attacked; give --overwrite to "
            "attack again"
        )
    if not overwrite:
        _refuse_to_shrink(paths.values(), base)
    for name, path in paths.items():
        own = replace(base, attack=registry.build("attacks", name))
        held = None if overwrite else _same(path, own)
        if held is not None:
            output.say(f"{name} on {what}: measured already; overwrite it to attack again")
            yield held
            continue
        try:
            with output.progress(f"attacking {what}: {name}") as bar:
                outcome = run_attack(
                    own,
                    monitor=lambda _, ended, total: bar(ended - 1, total, {}),
                    seen=seen or unseen,
                )
        except BadRequest as error:
            output.say(f"{name} on {what}: not done: {error}")
            continue
        path.parent.mkdir(exist_ok=True)
        files = {path.with_suffix(suffix): found for suffix, found in packed(outcome).items()}
        for file, content in files.items():
            write_atomically(file, content)
        outcome.record.save(path)
        runs.record_attack(folder.path, [path, *files])
        yield outcome.record


def _others(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Lists records of attacks that are there and were changed since they were written."""
    changed = {folder / name for name in runs.other_attacks(runs.open_run(folder))}
    return [path for path in paths if path in changed and path.is_file()]


def _refuse_to_shrink(paths: Iterable[Path], assault: Assault) -> None:
    """Keeps attacks that were tried harder than is asked for now.

    Raises:
        BadRequest: one of the records counts, and has more trials or a larger budget.
    """
    asked = len(assault.trials), assault.budget.evaluations, assault.budget.pictures
    for path in paths:
        held = _held(path, assault)
        if held is None or held.verdict != "valid":
            continue
        there = len(held.trials), held.budget["evaluations"], held.budget["pictures"]
        if any(now < before for now, before in zip(asked, there, strict=True)):
            raise BadRequest(
                f"{path} holds an attack of {_extent(there)}, and this one has {_extent(asked)}; "
                "ask for no less, or give --overwrite to replace it by the smaller one"
            )


def _extent(sizes: tuple[int, int, int]) -> str:
    trials, evaluations, pictures = sizes
    noun = "trial" if trials == 1 else "trials"
    return f"{trials} {noun} (each --budget {evaluations} --pictures {pictures})"


def _held(path: Path, assault: Assault) -> AttackRecord | None:
    """Gives the record that is there, if it is of this concept and erasure."""
    from efface.evaluation.revival import AttackRecord

    try:
        held = AttackRecord.load(path)
    except (BadRequest, FileNotFoundError):
        return None
    delta = assault.delta.id if assault.delta else None
    return held if (held.delta, held.concept) == (delta, assault.concept.name) else None


def _same(path: Path, assault: Assault) -> AttackRecord | None:
    """Gives the record that is there, if it is of this very attack."""
    from efface.evaluation.encoding import encoded
    from efface.evaluation.instruments import identity_of

    held = _held(path, assault)
    if held is None or held.verdict == "invalid":
        return None
    there = (held.judge, held.seed, len(held.trials), held.steps, held.settings, held.budget)
    asked = (
        identity_of(assault.judge),
        assault.seed,
        len(assault.trials),
        assault.steps,
        encoded(asdict(assault.attack)),
        encoded(asdict(assault.budget)),
    )
    return held if there == asked else None


def assaults(pipe: Any, options: Aim, recipe: runs.Recipe, first: str) -> Iterator[Assault]:
    """Aims the first attack at each erased concept, with the suite's own prompts and sampling."""
    from efface.evaluation.attacking import Assault

    judge, folder_of_judge = measuring.named_judge(options.judge)
    plan = measuring.Plan(
        suite=options.suite,
        size="short",
        judge=judge,
        judge_folder=options.judge_folder or folder_of_judge,
        judge_settings=options.judge_settings,
    )
    suite = measuring.suite_of(plan, recipe)
    asked = measuring.judge_of(plan, suite)
    delta = runs.open_run(options.source).delta
    for erasure in recipe.request.erasures:
        yield Assault(
            model=pipe,
            delta=delta,
            concept=_named(erasure.concept, recipe.model),
            trials=_trials(suite, erasure.concept.name, options.trials),
            attack=registry.build("attacks", first),
            judge=asked,
            second=_second(suite.judge),
            budget=options.spends(),
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


def renew_reports(folder: RunFolder, output: Telling) -> None:
    """Writes the page and the cards again, with what the attacks found, where there are any.

    A measurement that is not the run's own is left as it is, and so is all where an attack's record
    is broken; that is said.
    """
    from efface.evaluation.revival import FOLDER, load_records

    if not (folder.path / measuring.EVALUATION).is_file():
        return
    run = runs.open_run(folder.path)
    if measuring.EVALUATION in runs.other_reports(run):
        output.say(
            f"report  left as it is: {folder.path / measuring.EVALUATION} is not what was written "
            f"when the run was measured; write both again: efface evaluate {folder.path}"
        )
        return
    if others := runs.other_attacks(run):
        output.say(
            f"report  left as it is: {others[0]} is not what was written when the run was "
            f"attacked; attack again: efface attack {folder.path} --overwrite"
        )
        return
    try:
        found = load_records(folder.path / FOLDER, run.delta.id)
    except BadRequest as error:
        output.say(f"report  left as it is: {error}")
        return
    _renew(folder, run, found)


def _renew(folder: RunFolder, run: runs.Run, found: Sequence[AttackRecord]) -> None:
    from efface import reports
    from efface.deltas.results import CURVES, read_curves
    from efface.evaluation.record import Evaluation

    curves = read_curves(folder.path) if (folder.path / CURVES).exists() else {}
    held = Evaluation.load(folder.path)
    with folder.staged(owned=REPORT) as staging:
        away = os.path.relpath(held.store, folder.path)
        replace(held, store=staging / away).save(staging)
        reports.write_report(staging, held, {**run.record, "curves": curves, "attacks": found})
    runs.record_reports(folder.path, (measuring.EVALUATION, *REPORT))


def _slug(name: str) -> str:
    """Makes a file's name of a concept's, one of its own for each."""
    plain = re.sub(r"[^\w-]+", "-", name)[:80]
    if plain == name.replace(" ", "-"):
        return plain
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
