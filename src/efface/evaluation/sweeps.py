"""Sweeps: methods with settings, concepts and seeds as jobs, and the rows that they leave."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal, TypeAlias

from efface.concepts import ConceptKind
from efface.errors import BadRequest, EffaceError
from efface.evaluation.executors import Hear, Workers, run_all
from efface.evaluation.jobs import failures, give_up, missing, perform
from efface.evaluation.stores import ResultStore
from efface.evaluation.sweep_jobs import Measuring, SweepJob, base_print
from efface.hosts.families import FAMILIES
from efface.runs.erasing import check
from efface.runs.recipe import usual_preset
from efface.runs.workspace import Workspace

__all__ = ["Cost", "Row", "State", "Sweep", "Variant", "costs", "rows", "run_sweep"]

State: TypeAlias = Literal["done", "failed", "not done"]
RATES = ("erased", "synonym", "paraphrase", "neighbour", "kept")
"""Roles whose hits a row has."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A method with settings, or several methods in turn."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Those that are given, the preset among them; of methods in turn a table for each stage."""

    @classmethod
    def usual(cls, model: str, method: str) -> Variant:
        """Takes the presets that were measured on a bundled model, as `efface.erase` does."""
        stages = method.split("+")
        presets = {stage: usual_preset(model, stage) for stage in stages}
        given = {name: {"preset": preset} for name, preset in presets.items() if preset}
        return cls(method=method, settings=given if len(stages) > 1 else given.get(method, {}))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Every variant of every method, on every concept, with every seed."""

    variants: tuple[Variant, ...]
    concepts: tuple[str, ...]
    model: str = "emoji"
    seeds: tuple[int, ...] = (0,)
    anchors: Mapping[str, str] = field(default_factory=dict)
    """What some of the concepts become; the others become what the empty prompt is."""
    keep: tuple[str, ...] = ()
    kind: ConceptKind | None = None
    measuring: Measuring | None = field(default_factory=Measuring)
    """None: erasures are made and not measured."""
    deltas: bool = True
    """Whether the store keeps what was made, beside the numbers."""

    def jobs(self) -> tuple[SweepJob, ...]:
        """Lists the jobs, seed by seed, so that the first of everything is known early.

        Raises:
            BadRequest, MissingInput: there is nothing to do, two jobs are the same, or a job cannot
                be done, as far as that is seen before a model is loaded.
        """
        base = base_print(self.model)
        made: dict[str, SweepJob] = {}
        for seed, concept, variant in product(self.seeds, self.concepts, self.variants):
            job = SweepJob(
                model=self.model,
                base=base,
                method=variant.method,
                settings=variant.settings,
                concept=concept,
                anchor=self.anchors.get(concept),
                keep=self.keep,
                kind=self.kind,
                seed=seed,
                measuring=self.measuring,
                delta=self.deltas,
            )
            _check(job)
            same = replace(job, concept=_trimmed(job)).id
            if same in made:
                raise BadRequest(
                    f"'{job.title}' is the same job as '{made[same].title}'; leave one of them out"
                )
            made[same] = job
        if not made:
            raise BadRequest("the sweep has no jobs; name at least a method, a concept and a seed")
        return tuple(made.values())


def _trimmed(job: SweepJob) -> str:
    """Names what a job erases as its request does, without blanks around."""
    return " ".join(job.request().erasures[0].concept.name.split())


def _check(job: SweepJob) -> None:
    """Refuses a job that can be seen to fail.

    Raises:
        BadRequest: naming the job.
    """
    try:
        for method in job.methods():
            if not method.families & FAMILIES.keys():
                raise BadRequest(
                    f"{method.name} edits models that read pictures, and {job.model} draws them; "
                    "leave it out"
                )
        check(job.recipe(), Workspace(), methods=job.methods())
        job.suite()
    except EffaceError as error:
        raise BadRequest(f"{job.title}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of a job, as a line of ``rows.jsonl``."""

    id: str
    state: State
    method: str
    settings: Mapping[str, Any]
    label: str
    """Method and settings in one line."""
    concept: str
    anchor: str | None
    seed: int
    error: str = ""
    """Why there is no result."""
    verdict: str = ""
    outcome: str = ""
    reasons: tuple[str, ...] = ()
    rates: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """By role: hits before, hits after, and pictures."""
    seconds: float = 0.0
    """Of the erasure."""
    network_evaluations: float = 0.0
    delta: str = ""


def run_sweep(
    jobs: Sequence[SweepJob],
    place: str,
    workers: Workers,
    hear: Hear = lambda *_: None,
    *,
    retry: bool = False,
) -> tuple[Row, ...]:
    """Does what a store has no result of, and gives a row for each job.

    Args:
        jobs: what is wanted.
        place: of the store.
        workers: who does them.
        hear: told of every job that is done.
        retry: whether jobs that failed before are done again.

    Raises:
        BadRequest: the store cannot be written to, or workers cannot see it.
    """
    store = ResultStore(place)
    if store.of_one_process and workers.executor != "local":
        raise BadRequest(
            f"{place} is seen by one process alone; give a folder as --out, or --executor local"
        )
    failed = {} if retry else failures(jobs, store)
    left = [job for job in missing(jobs, store) if job.id not in failed]
    if left:
        run_all(left, perform, store.address, workers, hear, give_up)
    return rows(jobs, store)


def rows(jobs: Sequence[SweepJob], store: ResultStore) -> tuple[Row, ...]:
    """Reads what is known of each job."""
    left = {job.id for job in missing(jobs, store)}
    failed = failures(jobs, store)
    return tuple(_row(job, store, left, failed) for job in jobs)


def _row(job: SweepJob, store: ResultStore, left: set[str], failed: Mapping[str, str]) -> Row:
    facts: dict[str, Any] = {
        "id": job.id,
        "method": job.method,
        "settings": job.settings,
        "label": job.label,
        "concept": job.concept,
        "anchor": job.anchor,
        "seed": job.seed,
    }
    if job.id in failed:
        return Row(**facts, state="failed", error=failed[job.id])
    if job.id in left:
        return Row(**facts, state="not done")
    held = store.read_json(job.result)
    facts |= {name: held[name] for name in ("seconds", "network_evaluations", "delta")}
    found = held["evaluation"]
    if found is None:
        return Row(**facts, state="done")
    outcome = found["outcome"] or {"name": "", "reasons": []}
    return Row(
        **facts,
        state="done",
        verdict=found["verdict"],
        outcome=outcome["name"],
        reasons=(*found["reasons"], *outcome["reasons"]),
        rates=dict(_rates(found["measurements"])),
    )


def _rates(measurements: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for one in measurements:
        before, after = one["before"], one["after"]
        counted = before and after and after["hits"] is not None
        if one["metric"] == "presence" and one["concept"] is None and counted:
            yield one["role"], (before["hits"], after["hits"], after["count"])


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a job takes, as far as that is known before it is done."""

    job: SweepJob
    state: State
    steps: int
    """Training steps; 0: the method solves, and trains nothing."""
    pictures: int
    """That are drawn of the edited model; as many of the unedited one are drawn once a concept."""
    seconds: float | None
    """Of erasing and measuring: the median of jobs with the same method and settings in the store;
    None: none of them is done."""


def costs(jobs: Sequence[SweepJob], store: ResultStore | None) -> tuple[Cost, ...]:
    """Says what each job takes.

    Args:
        jobs: what is wanted.
        store: whose results say how long others took; None: there is none yet.
    """
    known = () if store is None else rows(jobs, store)
    states = {row.id: row.state for row in known}
    took: dict[str, list[float]] = {}
    for job in jobs:
        if store is not None and states[job.id] == "done":
            spent = float(store.read_json(job.result)["seconds_in_all"])
            took.setdefault(job.label, []).append(spent)
    return tuple(
        Cost(
            job=job,
            state=states.get(job.id, "not done"),
            steps=job.steps(),
            pictures=len(suite.samples) if (suite := job.suite()) else 0,
            seconds=statistics.median(took[job.label]) if job.label in took else None,
        )
        for job in jobs
    )
