"""``efface sweep FILE``: methods, settings, concepts and seeds as jobs; a table and their rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli.shell import Shared, parse
from efface.cli.sweep_file import read_sweep
from efface.errors import BadRequest
from efface.evaluation.executors import Executor, Workers
from efface.workbench.models import quiet_loading

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.evaluation.stores import ResultStore
    from efface.evaluation.sweep_jobs import SweepJob
    from efface.evaluation.sweeps import Cost, Row

__all__ = ["SweepOptions", "run"]

ROWS, TABLE = "rows.jsonl", "table.md"
MOST_SAID = 20
"""Failures that are told one by one; the rest are in the store."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Shared):
    """What is swept, where results are, and who does the work."""

    file: tyro.conf.Positional[Path]
    """A TOML file with methods, concepts, seeds, settings and grids; see docs/sweeps.md."""
    out: str | None = None
    """Folder of the results, or an address that fsspec knows, such as s3://bucket/folder; by
    default runs/ and the file's name. What is there is not done again."""
    executor: Executor = "processes"
    """Who does the jobs: this process, processes of this machine, or a Ray cluster."""
    workers: int = 2
    """Jobs at a time, for processes and Ray."""
    address: str | None = None
    """Of the Ray cluster, such as auto or ray://host:10001; by default one of this machine."""
    retry: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Do jobs again that failed before."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List the jobs and what they take, and do none."""


def run(arguments: list[str], output: Output) -> int:
    """Does what is missing, then writes rows and table; exit code 1 says that jobs have no row."""
    options = parse(
        SweepOptions, arguments, prog="efface sweep", description="Runs many erasures as jobs."
    )
    workers = Workers(executor=options.executor, count=options.workers, address=options.address)
    if options.out == "":
        raise BadRequest("--out is empty; name a folder, or an address that fsspec knows")
    place = options.out or str(Path("runs") / options.file.stem)
    sweep = read_sweep(options.file)
    with output.progress("reading the sweep"):
        jobs = sweep.jobs()
    if options.dry_run:
        return _listed(jobs, place, output)
    from efface.evaluation.stores import ResultStore
    from efface.evaluation.sweeps import run_sweep

    output.after_interrupt = "results so far are kept; run the same command again to go on"
    with output.progress("sweep") as bar:

        def hear(done: int, total: int, error: str) -> None:
            bar.before("sweep", done, total)
            if error:
                output.say(f"not done: {error}")

        with quiet_loading():
            rows = run_sweep(jobs, place, workers, hear, retry=options.retry)
    return _write(rows, ResultStore(place), place, output)


def _write(rows: Sequence[Row], store: ResultStore, place: str, output: Output) -> int:
    """Writes and prints what is known, and what to do about the rest."""
    from efface.evaluation.encoding import encoded
    from efface.reports.sweep import sweep_markdown, sweep_table

    plain = [encoded(row) for row in rows]
    store.write(ROWS, "".join(json.dumps(row) + "\n" for row in plain).encode())
    store.write(TABLE, sweep_markdown(rows).encode())
    output.say(sweep_table(rows), f"wrote {ROWS} and {TABLE} to {place}")
    failed = [row for row in rows if row.state == "failed"]
    lost = [row for row in rows if row.state == "not done"]
    output.say(
        *(
            f"failed: {row.label} on {row.concept}, seed {row.seed}: {row.error}"
            for row in failed[:MOST_SAID]
        )
    )
    if failed:
        output.say(f"{len(failed)} jobs failed; to do them again, give --retry")
    if lost:
        output.say(
            f"{len(lost)} jobs have no result in {place}; workers on other machines must write to "
            "a place that all of them reach"
        )
    output.result({"out": place, "rows": plain})
    return int(bool(failed or lost))


def _listed(jobs: Sequence[SweepJob], place: str, output: Output) -> int:
    """Prints each job with its cost; nothing is done, and no folder is made."""
    from efface.evaluation.stores import ResultStore
    from efface.evaluation.sweeps import costs

    there = "://" in place or Path(place).exists()
    found = costs(jobs, ResultStore(place) if there else None)
    output.say(*(_line(cost) for cost in found))
    left = [cost for cost in found if cost.state != "done"]
    known = [cost.seconds for cost in left if cost.seconds is not None]
    told = f"about {sum(known) / 60:.1f} minutes of one worker" if known else "time not known yet"
    if known and len(known) < len(left):
        told += f" for {len(known)} of them"
    output.say(
        f"{len(found)} jobs, {len(left)} to do: {sum(cost.steps for cost in left)} training steps, "
        f"{sum(cost.pictures for cost in left)} pictures of edited models; {told}"
    )
    output.result(
        {
            "out": place,
            "jobs": [
                {
                    "id": cost.job.id,
                    "job": cost.job.title,
                    "state": cost.state,
                    "steps": cost.steps,
                    "pictures": cost.pictures,
                    "seconds": cost.seconds,
                }
                for cost in found
            ],
        }
    )
    return 0


def _line(cost: Cost) -> str:
    took = "" if cost.seconds is None else f", about {cost.seconds:.0f} s"
    steps = f"{cost.steps} steps, " if cost.steps else ""
    told = f"{steps}{cost.pictures} pictures{took}"
    return f"{cost.job.id}  {cost.state:8}  {cost.job.title}: {told}"
