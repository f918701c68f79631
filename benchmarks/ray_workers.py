"""How much faster two workers of Ray are than one, on jobs of the robustness matrix.

    python -m benchmarks ray_workers     writes results/ray_workers.json

Attacks on one erasure, with small budgets, by one worker and then by two of a cluster on this
machine, whose processes have loaded the model before. It wants at least two processors that do
nothing else, and refuses to measure where the load is 1 or more.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from efface.errors import MeasurementFailed
from efface.evaluation.executors import Workers, run_all
from efface.evaluation.jobs import AttackJob, Plan, perform
from efface.files import write_atomically
from efface.revival.attempts import Budget

RESULTS = Path(__file__).parent / "results" / "ray_workers.json"
STORES = Path("runs") / "ray_workers"
WANTED = 1.7
"""How many times as fast two workers are to be."""
PLAN = Plan(
    methods=("uce",),
    attacks=("random_prefix", "soft_prompt", "hard_prompt", "unlearn_diff_atk"),
    concepts=("pistol", "cat"),
    budget=Budget(evaluations=400, pictures=4),
    trials=4,
)


def run() -> None:
    """Measures if there is no result yet, Ray is there and the machine does nothing else."""
    load = os.getloadavg()[0]
    if RESULTS.exists():
        return
    if find_spec("ray") is None:
        print("not measured: ray is not installed; pip install 'efface[ray]'")
        return
    if load >= 1:
        print(
            f"not measured: the machine does other work (load {load:.2f}), with which workers "
            "would share its processors; run it again when the load is below 1"
        )
        return
    found = measured(PLAN, STORES)
    record = {"command": "python -m benchmarks ray_workers", "load_before": load, **found}
    print(record, flush=True)
    write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())


def measured(plan: Plan, stores: Path) -> dict[str, Any]:
    """Times the same jobs with one worker and with two."""
    import ray

    shutil.rmtree(stores, ignore_errors=True)
    jobs = [*plan.tests(), *plan.assaults()]
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    try:
        # Both processes load the model, and draw for the attacks' tests of themselves.
        _seconds(jobs[:4], plan, stores / "before", 2)
        seconds = [_seconds(jobs, plan, stores / str(count), count) for count in (1, 2)]
    finally:
        ray.shutdown()
    return {
        "jobs": len(jobs),
        "seconds_of_one_worker": round(seconds[0], 1),
        "seconds_of_two_workers": round(seconds[1], 1),
        "times_as_fast": round(seconds[0] / seconds[1], 2),
        "wanted": WANTED,
    }


def _seconds(jobs: list[AttackJob], plan: Plan, place: Path, workers: int) -> float:
    """Does jobs on Ray; erasures are made before, here."""
    for erasure in plan.erasures():
        perform(erasure, str(place.absolute()))
    began = time.perf_counter()
    failed = run_all(jobs, perform, str(place.absolute()), Workers(executor="ray", count=workers))
    if failed:
        raise MeasurementFailed(f"{len(failed)} jobs could not be done: {failed[0]}")
    return time.perf_counter() - began
