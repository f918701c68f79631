"""Attacks every method by every attack: what brings an erased concept back?

    python -m benchmarks robustness     writes results/robustness/matrix.json and its pictures

The same as `efface matrix` with its defaults: 14 methods, all attacks, four concepts (three nouns
and a style), four trials each, in two processes. Deltas, attempts and pictures of single attacks
lie in runs/robustness, where an interrupted run goes on; what is committed is the table and its
heat maps.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from efface.cli.matrix import METHODS
from efface.evaluation.executors import Hear, Workers
from efface.evaluation.jobs import Plan
from efface.evaluation.matrix import run_plan
from efface.evaluation.stores import ResultStore
from efface.files import write_atomically
from efface.registry import entries
from efface.reports.matrix import heat_map, matrix_page, transfer_map

RESULTS = Path(__file__).parent / "results" / "robustness"
STORE = Path("runs") / "robustness"
CONCEPTS = ("pistol", "cat", "pizza", "neon")


def plan() -> Plan:
    """Names methods, attacks and concepts."""
    attacks = tuple(entry.name for entry in entries("attacks"))
    return Plan(methods=METHODS, attacks=attacks, concepts=CONCEPTS)


def run() -> None:
    """Does what is missing and writes the results."""
    started = time.perf_counter()
    whole = plan()
    matrix = run_plan(whole, str(STORE), Workers(executor="processes", count=2), _hear)
    seconds = time.perf_counter() - started
    facts = {**matrix.plain(), "seconds_of_this_run": seconds}
    write_atomically(RESULTS / "matrix.json", (json.dumps(facts, indent=1) + "\n").encode())
    write_atomically(RESULTS / "matrix.png", heat_map(matrix))
    write_atomically(RESULTS / "transfers.png", transfer_map(matrix))
    page = matrix_page(matrix, ResultStore(STORE))
    write_atomically(STORE / "matrix.html", page.encode())
    print(f"{len(matrix.pooled)} cells, {len(matrix.failures)} failures, {seconds:.0f} s")


def _hear(title: str) -> Hear:
    def told(done: int, total: int, error: str) -> None:
        print(f"{title}: {done} of {total} {error}", flush=True)

    return told
