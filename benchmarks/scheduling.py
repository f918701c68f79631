"""What handing out 10,000 jobs costs, and what is lost to killed workers and drivers.

    python -m benchmarks scheduling     writes results/scheduling.json

Jobs do nothing but write one small file, as those of a sweep do in the end; what comes on top is
the executor's. A fourth run, on Ray, has a worker killed after a quarter of the jobs and its
driver after half; a second driver then does the rest. What has a row is not run again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from efface.evaluation.executors import EXECUTORS, Workers, run_all
from efface.evaluation.jobs import failures, give_up, missing, perform
from efface.evaluation.stores import ResultStore
from efface.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "scheduling.json"
STORES = Path("runs") / "scheduling"
JOBS = 10_000
WORKERS = 2
KILLED = "ray, killed"
PATIENCE = 120.0
"""Seconds in which processes of a killed driver must be gone."""


@dataclass(frozen=True)
class IdleJob:
    """A job that does nothing but leave its result."""

    number: int

    @property
    def id(self) -> str:
        """Its number."""
        return f"{self.number:06}"

    @property
    def result(self) -> str:
        """The name of its result in a store."""
        return f"idle/{self.id}.json"

    def perform(self, store: ResultStore) -> None:
        """Writes which process did it."""
        store.write_json(self.result, {"process": os.getpid()})


def jobs(count: int) -> list[IdleJob]:
    """Lists them."""
    return [IdleJob(number) for number in range(count)]


def run() -> None:
    """Measures what has no row yet."""
    record: dict[str, Any] = {"command": "python -m benchmarks scheduling", "rows": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text(encoding="utf-8"))
    known = {row["run"] for row in record["rows"]}
    for name in (*EXECUTORS, KILLED):
        if name in known:
            continue
        if name.startswith("ray") and find_spec("ray") is None:
            print(f"{name}: not measured, ray is not installed; pip install 'efface[ray]'")
            continue
        place = STORES / name.replace(", ", "_")
        shutil.rmtree(place, ignore_errors=True)
        row = killed(place, JOBS) if name == KILLED else driven(place, name, JOBS)
        row = {"run": name, "jobs": JOBS, "workers": 1 if name == "local" else WORKERS, **row}
        record["rows"].append(row | {"load": round(os.getloadavg()[0], 1)})
        print(record["rows"][-1], flush=True)
        write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())


def driven(place: Path, executor: str, count: int) -> dict[str, Any]:
    """Lets one driver do what is missing; gives what it says."""
    with driver(place, executor, count) as child:
        told, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f"the driver of {place} ended with {child.returncode}")
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def driver(place: Path, executor: str, count: int) -> subprocess.Popen[str]:
    """Starts a process that hands out jobs."""
    words = [sys.executable, "-m", "benchmarks.scheduling", str(place), executor, str(count)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def killed(place: Path, count: int) -> dict[str, Any]:
    """Kills a worker, then the driver, and lets another driver go on."""
    with driver(place, "ray", count) as first:
        worker = _waiting_for(place, count // 4)
        os.kill(worker, signal.SIGKILL)
        at_worker = len(list((place / "idle").glob("*.json")))
        latest = _waiting_for(place, max(count // 2, at_worker + 2 * WORKERS))
        first.kill()
    gone = _seconds_until_gone(latest)
    done = count - len(missing(jobs(count), ResultStore(place)))
    second = driven(place, "ray", count)
    store = ResultStore(place)
    return {
        "done_when_worker_was_killed": at_worker,
        "done_when_driver_was_killed": done,
        "done_by_second_driver": second["done"],
        "without_result": len(missing(jobs(count), store)),
        "failed": len(failures(jobs(count), store)),
        "seconds_until_workers_were_gone": round(gone, 1),
        "seconds_of_second_driver": second["seconds"],
    }


def _waiting_for(place: Path, count: int) -> int:
    """Waits until so many jobs are done; gives the process that did the last of them."""
    began = time.perf_counter()
    while True:
        found = sorted((place / "idle").glob("*.json")) if (place / "idle").is_dir() else []
        if len(found) >= count:
            return int(json.loads(found[-1].read_text())["process"])
        if time.perf_counter() - began > 10 * PATIENCE:
            raise SystemExit(f"only {len(found)} of {count} jobs were done in {10 * PATIENCE} s")
        time.sleep(0.2)


def _seconds_until_gone(process: int) -> float:
    """Waits for the end of a process that its dead driver had started."""
    began = time.perf_counter()
    while time.perf_counter() - began < PATIENCE:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return time.perf_counter() - began
        time.sleep(0.1)
    raise SystemExit(f"process {process} outlived its driver by {PATIENCE} s; end it by hand")


def main(place: str, executor: str, count: str) -> None:
    """Hands out what is missing and prints what it took, without the start of the workers."""
    store = ResultStore(place)
    left = missing(jobs(int(count)), store)
    times = [time.perf_counter()]
    workers = Workers(executor=executor, count=WORKERS)  # type: ignore[arg-type]
    errors = run_all(
        left,
        perform,
        store.address,
        workers,
        lambda *_: times.append(time.perf_counter()),
        give_up,
    )
    began, first, last = times[0], times[1], times[-1]
    told = {
        "done": len(left) - len(errors),
        "failed": len(errors),
        "seconds": round(last - began, 1),
        "seconds_until_first": round(first - began, 1),
        "milliseconds_per_job": round(1e3 * (last - first) / max(len(left) - 1, 1), 2),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    # By its name, so that workers find the jobs' class.
    from benchmarks import scheduling

    scheduling.main(*sys.argv[1:])
