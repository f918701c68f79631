"""Do prompts that were found against one erasure bring the concept back from another one?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from efface.content import content_hash
from efface.contracts import Estimate
from efface.evaluation.attack_files import attempts_from
from efface.evaluation.encoding import decoded
from efface.evaluation.jobs import AttackJob, EraseJob, Plan, bench_of, read_delta
from efface.evaluation.revival import AttackRecord
from efface.evaluation.stores import ResultStore
from efface.metrics.estimates import rate
from efface.revival.attempts import Attempt
from efface.revival.drawing import draw
from efface.revival.target import Target
from efface.runs.transfer import transferred

__all__ = ["MOST_PROMPTS", "SISTER", "Transfer", "TransferJob", "transfer_jobs", "transfers"]

SISTER = "emoji-remix"
"""A fine-tune of the bundled model, which reads prompts by the same text encoder."""
MOST_PROMPTS = 6
"""Prompts that are tried of each source, those of different attacks first."""


@dataclass(frozen=True, kw_only=True)
class TransferJob:
    """Draws what was found against one erasure with another one."""

    sources: tuple[AttackJob, ...]
    """Attacks on one method and concept, whose successes are tried."""
    erasure: EraseJob
    """What they are tried on."""
    onto: str
    """The model that it is applied to: its own, or a fine-tune."""

    @property
    def id(self) -> str:
        """Sixteen hex digits of all that decides the result."""
        return content_hash(
            "transfer", [job.id for job in self.sources], self.erasure.id, self.onto, MOST_PROMPTS
        )

    @property
    def result(self) -> str:
        """The name of its result in a store."""
        return f"transfers/{self.id}.json"

    def perform(self, store: ResultStore) -> None:
        """Draws and judges; nothing was found, nothing is tried."""
        found = _found(self.sources, store)
        row: dict[str, Any] = {
            "source": _method(self.sources[0]),
            "target": self.erasure.method,
            "onto": self.onto,
            "concept": self.erasure.concept,
            "tried": len(found),
            "hits": self._hits(found, store) if found else 0,
        }
        store.write_json(self.result, row)

    def _hits(self, found: Sequence[Attempt], store: ResultStore) -> int:
        bench = bench_of(self.onto)
        delta = read_delta(self.erasure, store)
        if self.onto != self.erasure.model:
            delta = transferred(delta, bench.pipe)
        suite, concept = bench.suite(self.erasure.concept), bench.concept(self.erasure.concept)
        trials = bench.trials(self.erasure.concept, 1)
        target = Target(
            bench.pipe, delta, concept, trials, steps=suite.steps, guidance=suite.guidance
        )
        with target.edited():
            pictures = draw(target, found)
        seen = bench.judge.presence(pictures, concept) >= bench.judge.card.threshold
        return int(seen.sum())


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How often prompts found against one method work on another one, over all concepts."""

    source: str
    target: str
    onto: str
    estimate: Estimate | None
    """None: nothing was found against the source."""


def transfer_jobs(plan: Plan) -> Iterator[TransferJob]:
    """Pairs every method with every other one, and with itself on the sister model."""
    attacks: dict[tuple[str, str], list[AttackJob]] = {}
    for job in plan.assaults():
        attacks.setdefault((_method(job), job.concept), []).append(job)
    erasures = list(plan.erasures())
    for (method, concept), sources in attacks.items():
        for erasure in erasures:
            if erasure.concept != concept:
                continue
            own = erasure.method == method
            if own and plan.model != "emoji":
                continue
            onto = SISTER if own else plan.model
            yield TransferJob(sources=tuple(sources), erasure=erasure, onto=onto)


def transfers(plan: Plan, store: ResultStore) -> tuple[Transfer, ...]:
    """Adds up over concepts what `transfer_jobs` found."""
    counts: dict[tuple[str, str, str], list[int]] = {}
    for job in transfer_jobs(plan):
        if not store.has(job.result):
            continue
        row = store.read_json(job.result)
        told = counts.setdefault((row["source"], row["target"], row["onto"]), [0, 0])
        told[0] += row["hits"]
        told[1] += row["tried"]
    return tuple(
        Transfer(
            source=source,
            target=target,
            onto=onto,
            estimate=rate([1.0] * hits + [0.0] * (tried - hits)) if tried else None,
        )
        for (source, target, onto), (hits, tried) in counts.items()
    )


def _method(job: AttackJob) -> str:
    return job.erasure.method if job.erasure else ""


def _found(sources: Sequence[AttackJob], store: ResultStore) -> list[Attempt]:
    """Takes successes that are prompts, embeddings or rows alone, attacks in turn."""
    each = [list(_successes(job, store)) for job in sources if store.has(job.result)]
    longest = max((len(one) for one in each), default=0)
    mixed = [one[place] for place in range(longest) for one in each if place < len(one)]
    return mixed[:MOST_PROMPTS]


def _successes(job: AttackJob, store: ResultStore) -> Iterator[Attempt]:
    record = decoded(AttackRecord, store.read_json(job.result))
    attempts = attempts_from(store.read(job.result.replace(".json", ".safetensors")))
    for trial, attempt in zip(record.trials, attempts, strict=True):
        if trial.revived is not None and attempt is not None and _is_read(attempt):
            yield attempt


def _is_read(attempt: Attempt) -> bool:
    """Says whether all of an attempt is what the model reads, and not its weights or latents."""
    others = (attempt.noise, attempt.clean)
    return all(one is None for one in others) and not attempt.without and not attempt.added
