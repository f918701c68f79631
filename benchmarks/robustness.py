"""Attacks every method by every attack: what brings an erased concept back?

    python -m benchmarks robustness     writes results/robustness/matrix.json and its pictures

The same as `efface matrix` with its defaults: 14 methods, all attacks, four concepts (three nouns
and a style), four trials each, in two processes. It takes one concept after another and writes what
is whole by then. Deltas, attempts and pictures of single attacks lie in runs/robustness, where an
interrupted run goes on; what is committed is a row for each cell and the heat maps.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from efface.cli.matrix import METHODS
from efface.evaluation.executors import Hear, Workers
from efface.evaluation.jobs import Plan
from efface.evaluation.matrix import Matrix, run_plan
from efface.evaluation.stores import ResultStore
from efface.files import write_atomically
from efface.registry import entries
from efface.reports.matrix import heat_map, matrix_page, transfer_map

RESULTS = Path(__file__).parent / "results" / "robustness"
STORE = Path("runs") / "robustness"
CONCEPTS = ("pistol", "neon", "cat", "pizza")
COUNTED = ("failure_rate", "asr", "pre_asr", "agreed", "known", "unknown")
"""Rates of a cell that its row has, as hits and trials."""
FACTS = ("method", "attack", "access", "concept", "verdict", "reasons", "evaluations")


def plan(concepts: tuple[str, ...] = CONCEPTS) -> Plan:
    """Names methods, attacks and concepts."""
    attacks = tuple(entry.name for entry in entries("attacks"))
    return Plan(methods=METHODS, attacks=attacks, concepts=concepts)


def run() -> None:
    """Does what is missing, concept by concept, and writes the results of those that are done."""
    for done in range(1, len(CONCEPTS) + 1):
        started = time.perf_counter()
        workers = Workers(executor="processes", count=2)
        matrix = run_plan(plan(CONCEPTS[:done]), str(STORE), workers, _hear)
        _write(matrix)
        seconds = time.perf_counter() - started
        print(f"{', '.join(CONCEPTS[:done])}: {len(matrix.cells)} cells in {seconds:.0f} s")


def _write(matrix: Matrix) -> None:
    plain = matrix.plain()
    facts = {
        "plan": plain["plan"],
        "seconds_of_all_attacks": round(sum(cell["seconds"] for cell in plain["cells"])),
        "failures": plain["failures"],
        "cells": [_row(cell) for cell in plain["cells"]],
    }
    rows = json.dumps(facts["cells"]).replace("}, {", "},\n{")
    head = json.dumps({**facts, "cells": []}, indent=1).removesuffix("[]\n}")
    write_atomically(RESULTS / "matrix.json", f"{head}{rows}\n}}\n".encode())
    write_atomically(RESULTS / "matrix.png", heat_map(matrix))
    write_atomically(RESULTS / "transfers.png", transfer_map(matrix))
    page = matrix_page(matrix, ResultStore(STORE))
    write_atomically(STORE / "matrix.html", page.encode())


def _row(cell: dict[str, Any]) -> dict[str, Any]:
    counted = {
        name: [cell[name]["hits"], cell[name]["count"]] if cell[name] else None for name in COUNTED
    }
    return {**{name: cell[name] for name in FACTS}, **counted, "seconds": round(cell["seconds"], 1)}


def _hear(title: str) -> Hear:
    def told(done: int, total: int, error: str) -> None:
        print(f"{title}: {done} of {total} {error}", flush=True)

    return told
