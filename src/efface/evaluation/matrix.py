"""The robustness matrix: every method against every attack, read from a store of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.contracts import Estimate
from efface.errors import BadRequest
from efface.evaluation.encoding import decoded, encoded
from efface.evaluation.executors import Hear, Workers, run_all
from efface.evaluation.jobs import AttackJob, Job, Plan, missing, perform
from efface.evaluation.record import Verdict
from efface.evaluation.revival import AttackRecord, counted, half_revived, survival
from efface.evaluation.self_tests import NOTHING_TO_TRY, tests_of, with_self_tests
from efface.evaluation.stores import ResultStore
from efface.evaluation.transfers import Transfer, transfer_jobs, transfers
from efface.files import read_json_object
from efface.registry import load as load_entry

__all__ = ["Cell", "Matrix", "collected", "run_plan"]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method under one attack, over all concepts; or one concept of that."""

    method: str
    attack: str
    access: str
    concept: str = ""
    """Empty: over all concepts."""
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    pre_asr: Estimate | None = None
    asr: Estimate | None = None
    failure_rate: Estimate | None = None
    reproduction: Estimate | None = None
    agreed: Estimate | None = None
    half_revived: int | None = None
    """Network evaluations a trial until half of the trials show the concept."""
    evaluations: float = 0.0
    """Network evaluations a trial, on average."""
    curve: tuple[tuple[int, float], ...] = ()
    """Share of trials still erased after so many network evaluations."""
    known: Estimate | None = None
    """Success on the unedited model."""
    unknown: Estimate | None = None
    """Seeming success for a made-up concept."""
    seconds: float = 0.0

    @property
    def applies(self) -> bool:
        """Whether the attack had anything to try."""
        return not any(NOTHING_TO_TRY in reason for reason in self.reasons)


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All cells of a plan."""

    plan: dict[str, Any]
    cells: tuple[Cell, ...]
    """Of single concepts."""
    pooled: tuple[Cell, ...]
    """Over all concepts."""
    transfers: tuple[Transfer, ...] = ()
    """What was found against one method, tried on the others."""
    failures: tuple[str, ...] = ()
    """Jobs that could not be done, and why."""
    format: int = FORMAT

    def find(self, method: str, attack: str, concept: str = "") -> Cell | None:
        """Gives one cell; None where it is missing."""
        cells = self.cells if concept else self.pooled
        wanted = (method, attack, concept)
        return next((c for c in cells if (c.method, c.attack, c.concept) == wanted), None)

    def plain(self) -> dict[str, Any]:
        """Gives it as plain values."""
        values: dict[str, Any] = encoded(self)
        return values

    @classmethod
    def load(cls, path: Path) -> Matrix:
        """Reads a matrix from its file.

        Raises:
            BadRequest: there is none, or it is of another version.
        """
        held = read_json_object(path)
        if held.get("format") != FORMAT:
            raise BadRequest(f"{path} holds no matrix in format {FORMAT}; make it again")
        return decoded(cls, held)


def run_plan(
    plan: Plan, place: str, workers: Workers, hear: Callable[[str], Hear] = lambda _: _unheard
) -> Matrix:
    """Does what is missing of a plan, and gives the matrix.

    Erasures come first, since attacks read them; then the attacks' tests of themselves, and the
    attacks. An interrupted run goes on with what the store holds.

    Args:
        plan: methods, attacks, concepts and budget.
        place: of the store.
        workers: who does the jobs.
        hear: given what is being done, gives what hears of each job.

    Raises:
        BadRequest: the store cannot be written to, or an unknown method, attack or concept.
    """
    store = ResultStore(place)
    failures: list[str] = []
    waves: tuple[tuple[str, list[Job]], ...] = (
        ("erasing", list(plan.erasures())),
        ("attacking", [*plan.tests(), *plan.assaults()]),
        ("trying what was found on the others", list(transfer_jobs(plan))),
    )
    for title, jobs in waves:
        left = missing(jobs, store)
        failures += run_all(left, perform, place, workers, hear(title)) if left else ()
    return collected(plan, store, failures=tuple(dict.fromkeys(failures)))


def collected(plan: Plan, store: ResultStore, *, failures: tuple[str, ...] = ()) -> Matrix:
    """Reads the cells of a plan from a store; those without a result are left out."""
    tests = {(job.attack, job.concept, job.role): _record(job, store) for job in plan.tests()}
    held: dict[tuple[str, str], list[AttackRecord]] = {}
    for job in plan.assaults():
        record = _record(job, store)
        known = tests[job.attack, job.concept, "known"]
        unknown = tests[job.attack, job.concept, "unknown"]
        if record is None or known is None or unknown is None or job.erasure is None:
            continue
        named = bool(load_entry("attacks", job.attack).needs_name)
        judged = with_self_tests(record, tests_of(known, unknown, needs_name=named))
        held.setdefault((job.erasure.method, job.attack), []).append(judged)
    cells = [
        _cell(method, [record], record.concept)
        for (method, _), records in held.items()
        for record in records
    ]
    pooled = [_cell(method, records, "") for (method, _), records in held.items()]
    return Matrix(
        plan=encoded(plan),
        cells=tuple(cells),
        pooled=tuple(pooled),
        transfers=transfers(plan, store),
        failures=failures,
    )


def _record(job: AttackJob, store: ResultStore) -> AttackRecord | None:
    if not store.has(job.result):
        return None
    return decoded(AttackRecord, store.read_json(job.result))


def _cell(method: str, records: Sequence[AttackRecord], concept: str) -> Cell:
    """Adds up records of one method and attack; only valid ones are counted."""
    first = records[0]
    valid = [record for record in records if record.verdict == "valid"]
    reasons = tuple(dict.fromkeys(_reasons(records)))
    seconds = sum(record.seconds for record in records)
    if not valid:
        broken = any(record.verdict == "invalid" for record in records)
        return Cell(
            method=method,
            attack=first.attack,
            access=first.access,
            concept=concept,
            verdict="invalid" if broken else "inconclusive",
            reasons=reasons,
            known=_test(records, "known"),
            unknown=_test(records, "unknown"),
            seconds=seconds,
        )
    trials = [trial for record in valid for trial in record.trials]
    found = counted(trials)
    return Cell(
        method=method,
        attack=first.attack,
        access=first.access,
        concept=concept,
        verdict="valid",
        reasons=reasons,
        pre_asr=found.pre_asr,
        asr=found.asr,
        failure_rate=found.failure_rate,
        reproduction=found.reproduction,
        agreed=found.agreed,
        half_revived=half_revived(trials),
        evaluations=sum(trial.spent for trial in trials) / len(trials),
        curve=survival(trials),
        known=_test(records, "known"),
        unknown=_test(records, "unknown"),
        seconds=seconds,
    )


def _reasons(records: Sequence[AttackRecord]) -> Iterator[str]:
    for record in records:
        for reason in record.reasons:
            yield f"{record.concept}: {reason}"


def _test(records: Sequence[AttackRecord], name: str) -> Estimate | None:
    """Adds up a self-test over concepts."""
    from efface.metrics.estimates import rate

    found = [
        test.estimate
        for record in records
        for test in record.self_tests
        if test.name == name and test.estimate is not None
    ]
    hits = sum(each.hits or 0 for each in found)
    count = sum(each.count for each in found)
    return rate([1.0] * hits + [0.0] * (count - hits)) if count else None


def _unheard(done: int, total: int, error: str) -> None:
    """Hears nothing."""
