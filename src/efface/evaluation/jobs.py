"""Jobs of a robustness matrix: erase, attack, and attack where the outcome is known."""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import torch

from efface import registry
from efface.content import content_hash
from efface.contracts import Attack
from efface.deltas.delta import Delta
from efface.errors import EffaceError
from efface.evaluation.attack_files import packed
from efface.evaluation.attacking import Assault, attacked
from efface.evaluation.bench import Bench
from efface.evaluation.encoding import encoded
from efface.evaluation.self_tests import as_known, as_unknown
from efface.evaluation.stores import ResultStore, store_at
from efface.revival.attempts import Budget
from efface.runs.erasing import erase

__all__ = [
    "AttackJob",
    "EraseJob",
    "Job",
    "Plan",
    "Role",
    "bench_of",
    "failures",
    "give_up",
    "missing",
    "perform",
    "read_delta",
]

_FAILURES = "failures"
"""Folder of a store with a record for each job that could not be done."""

Role: TypeAlias = Literal["edited", "known", "unknown"]
"""What is attacked: the edited model; the unedited one, where the attack must succeed; or the
unedited one for a made-up concept, where it must not."""


@dataclass(frozen=True, kw_only=True)
class EraseJob:
    """Erases one concept from a bundled model by one method, or by several in turn."""

    model: str
    method: str
    concept: str
    seed: int = 0

    @property
    def id(self) -> str:
        """Sixteen hex digits of all that decides the result."""
        stages = self.method.split("+")
        revisions = [registry.load("methods", stage).revision for stage in stages]
        return content_hash("erase", asdict(self), revisions)

    @property
    def result(self) -> str:
        """The name of its result in a store."""
        return f"erasures/{self.id}.json"

    def perform(self, store: ResultStore) -> None:
        """Erases, and writes the delta and then the row that says so."""
        bench = bench_of(self.model)
        made = erase(
            bench.pipe,
            bench.request(self.concept),
            method=self.method,
            preset=registry.measured_preset(self.model),
            seed=self.seed,
        )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "delta.safetensors"
            made.delta.save(file)
            store.write(self.delta, file.read_bytes())
        row = {**asdict(self), "seconds": made.seconds, "delta": made.delta.id}
        store.write_json(self.result, row)

    @property
    def delta(self) -> str:
        """The name of its delta in a store."""
        return f"erasures/{self.id}.safetensors"


@dataclass(frozen=True, kw_only=True)
class AttackJob:
    """One attack on one erasure, or on the unedited model."""

    erasure: EraseJob | None
    """None: the unedited model is attacked."""
    model: str
    concept: str
    attack: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    role: Role = "edited"
    budget: Budget = field(default_factory=Budget)
    trials: int = 4
    seed: int = 0

    @property
    def id(self) -> str:
        """Sixteen hex digits of all that decides the result."""
        revision = registry.load("attacks", self.attack).revision
        erasure = self.erasure.id if self.erasure else ""
        own = {**asdict(self), "erasure": erasure}
        return content_hash("attack", json.dumps(own, sort_keys=True, default=str), revision)

    @property
    def result(self) -> str:
        """The name of its result in a store."""
        return f"attacks/{self.id}.json"

    def perform(self, store: ResultStore) -> None:
        """Attacks, and writes what was found and then the record."""
        bench = bench_of(self.model)
        attack: Attack = registry.build("attacks", self.attack, **self.settings)
        suite = bench.suite(self.concept)
        assault = Assault(
            model=bench.pipe,
            delta=None if self.erasure is None else read_delta(self.erasure, store),
            concept=bench.concept(self.concept),
            trials=bench.trials(self.concept, self.trials),
            attack=attack,
            judge=bench.judge,
            second=bench.second,
            budget=self.budget,
            seed=self.seed,
            steps=suite.steps,
            guidance=suite.guidance,
            others=bench.others(self.concept),
            wordings=bench.wordings(self.concept),
            shared=bench.shared,
        )
        if self.role != "edited":
            assault = {"known": as_known, "unknown": as_unknown}[self.role](assault)
        outcome = attacked(assault)
        for suffix, content in packed(outcome).items():
            store.write(f"attacks/{self.id}{suffix}", content)
        store.write_json(self.result, encoded(outcome.record))


class Job(Protocol):
    """Something that is done once, and whose result is a file of a store."""

    @property
    def id(self) -> str:
        """Sixteen hex digits of all that decides the result."""

    @property
    def result(self) -> str:
        """The name of its result in a store."""

    def perform(self, store: ResultStore) -> None:
        """Does it and writes the result."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A matrix: every method against every attack, for every concept."""

    methods: tuple[str, ...]
    attacks: tuple[str, ...]
    concepts: tuple[str, ...]
    model: str = "emoji"
    budget: Budget = field(default_factory=Budget)
    trials: int = 4
    seed: int = 0

    def erasures(self) -> Iterator[EraseJob]:
        """Lists what is erased."""
        for method, concept in product(self.methods, self.concepts):
            yield EraseJob(model=self.model, method=method, concept=concept, seed=self.seed)

    def tests(self) -> Iterator[AttackJob]:
        """Lists the attacks' tests of themselves, two for each concept."""
        roles: tuple[Role, ...] = ("known", "unknown")
        for attack, concept, role in product(self.attacks, self.concepts, roles):
            yield self.attack(attack, concept, None, role)

    def assaults(self) -> Iterator[AttackJob]:
        """Lists the attacks on all erasures."""
        for attack, erasure in product(self.attacks, self.erasures()):
            yield self.attack(attack, erasure.concept, erasure, "edited")

    def attack(self, attack: str, concept: str, erasure: EraseJob | None, role: Role) -> AttackJob:
        """Writes one attack's job."""
        return AttackJob(
            erasure=erasure,
            model=self.model,
            concept=concept,
            attack=attack,
            role=role,
            budget=self.budget,
            trials=self.trials,
            seed=self.seed,
        )


def perform(job: Job, place: str) -> str:
    """Does a job unless its result is there; gives an error's text, or nothing.

    A job that raises is recorded with the reason, whatever it raised: one of thousands must not
    end the others. Where the error is none of ours, the record has its trace too.

    Args:
        job: what is done.
        place: of the store.
    """
    store = store_at(place)
    if store.has(job.result):
        return ""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        job.perform(store)
    except EffaceError as error:
        give_up(job, place, str(error))
        return str(error)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        give_up(job, place, text, trace=traceback.format_exc())
        return text
    finally:
        torch.set_num_threads(threads)
    store.remove(_failure(job))
    return ""


def give_up(job: Job, place: str, error: str, *, trace: str = "") -> None:
    """Records why a job has no result.

    Args:
        job: what could not be done.
        place: of the store.
        error: what happened.
        trace: where, if that is not clear from the text.
    """
    record = {"job": encoded(job), "error": error, **({"trace": trace} if trace else {})}
    store_at(place).write_json(_failure(job), record)


def failures(jobs: Sequence[Job], store: ResultStore) -> dict[str, str]:
    """Tells why jobs have no result, by their ids; those that were not tried are left out."""
    there = set(store.names(_FAILURES))
    failed = [job for job in missing(jobs, store) if f"{job.id}.json" in there]
    return {job.id: str(store.read_json(_failure(job))["error"]) for job in failed}


def _failure(job: Job) -> str:
    return f"{_FAILURES}/{job.id}.json"


def read_delta(erasure: EraseJob, store: ResultStore) -> Delta:
    """Reads the delta that an erasure left in a store."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "delta.safetensors"
        file.write_bytes(store.read(erasure.delta))
        return Delta.load(file)


def missing(jobs: Sequence[Job], store: ResultStore) -> list[Job]:
    """Lists jobs that have no result yet, each once."""
    folders = {job.result.rpartition("/")[0] for job in jobs}
    there = {f"{folder}/{name}" for folder in folders for name in store.names(folder)}
    named = {job.id: job for job in jobs if job.result not in there}
    return list(named.values())


@lru_cache(maxsize=2)
def bench_of(model: str) -> Bench:
    """Loads a model once in a process, however many jobs it does."""
    return Bench(model)
