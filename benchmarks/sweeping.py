"""Experiments that are sweeps: every method on every concept, and a committed file for each result.

What is swept is what `efface sweep` does, in two processes. Deltas and pictures are not kept; whole
results lie in runs/sweeps, from where an interrupted experiment goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.concepts import MEASURED_STYLES, STYLE_ANCHOR, WITHOUT_ANCHOR
from efface.evaluation.executors import Workers
from efface.evaluation.stores import ResultStore
from efface.evaluation.sweep_jobs import Measuring, SweepJob
from efface.evaluation.sweeps import Sweep, Variant, run_sweep

STORES = Path("runs") / "sweeps"


def jobs(
    methods: Sequence[str],
    concepts: Sequence[str],
    *,
    model: str = "emoji",
    seeds: tuple[int, ...] = (0,),
    size: str = "benchmark",
) -> list[SweepJob]:
    """Lists what is measured: nouns without an anchor, styles become another one."""
    made: list[SweepJob] = []
    for method in methods:
        steered = [] if method in WITHOUT_ANCHOR else MEASURED_STYLES
        sweep = Sweep(
            variants=(Variant.usual(model, method),),
            concepts=tuple(concepts),
            model=model,
            seeds=seeds,
            anchors=dict.fromkeys(steered, STYLE_ANCHOR),
            measuring=Measuring(size=size, batch=64),
            deltas=False,
        )
        made += sweep.jobs()
    return sorted(made, key=lambda job: (job.seed, concepts.index(job.concept)))


def unmeasured(
    results: Path, wanted: Sequence[SweepJob], *, seeds: bool = False
) -> list[tuple[SweepJob, Path]]:
    """Lists jobs without a committed file, with the file.

    Args:
        results: the experiment's folder, with one of each method in it.
        wanted: all jobs.
        seeds: whether names of files end with the seed.
    """
    files = []
    for job in wanted:
        name = f"{job.concept.replace(' ', '_')}{f'-{job.seed}' if seeds else ''}.json"
        if not (results / job.method / name).exists():
            files.append((job, results / job.method / name))
    return files


def swept(
    results: Path, wanted: Sequence[SweepJob], *, seeds: bool = False
) -> Iterator[tuple[SweepJob, Path, dict[str, Any]]]:
    """Does what is `unmeasured`; gives jobs with their files and what was measured."""
    files = unmeasured(results, wanted, seeds=seeds)
    place = str(STORES / results.name)
    workers = Workers(executor="processes")
    rows = run_sweep([job for job, _ in files], place, workers, _told, retry=True)
    store = ResultStore(place)
    for row, (job, path) in zip(rows, files, strict=True):
        if row.state == "done":
            yield job, path, store.read_json(job.result)
        else:
            print(f"{job.title}: {row.error}", flush=True)


def _told(done: int, total: int, error: str) -> None:
    print(f"{done} of {total} {error}", flush=True)
