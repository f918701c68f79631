"""Attacks every method by every attack: what brings an erased concept back?

    python -m benchmarks robustness     writes results/robustness/CONCEPT.json and pictures of all

The same as `efface matrix` with its defaults, one concept after another: 14 methods, all attacks,
four trials each, in two processes, for those of three nouns and a style that have no results of
today's plan yet. Deltas, attempts and pictures of single attacks lie in runs/robustness, where an
interrupted run goes on; what is committed is a row for each cell with its curve, the counts of the
transfers, and heat maps of all concepts added up.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from efface.cli.matrix import METHODS
from efface.contracts import Estimate
from efface.evaluation.encoding import encoded
from efface.evaluation.executors import Hear, Workers
from efface.evaluation.jobs import Plan
from efface.evaluation.matrix import Cell, Matrix, run_plan
from efface.evaluation.transfers import Transfer
from efface.files import write_atomically
from efface.metrics.estimates import rate
from efface.registry import entries
from efface.reports.matrix import heat_map, transfer_map

RESULTS = Path(__file__).parent / "results" / "robustness"
STORE = Path("runs") / "robustness"
CONCEPTS = ("neon", "cat", "pizza", "pistol")
COUNTED = ("failure_rate", "asr", "pre_asr", "agreed", "known", "unknown")
"""Rates of a cell that its row has, as hits and trials."""
FACTS = ("method", "attack", "access", "concept", "verdict", "reasons", "half_revived")


def plan(concept: str) -> Plan:
    """Names methods, attacks and one concept."""
    attacks = tuple(entry.name for entry in entries("attacks"))
    return Plan(methods=METHODS, attacks=attacks, concepts=(concept,))


def run() -> None:
    """Does the concepts without results, and draws all that have some."""
    for concept in (one for one in CONCEPTS if not _done(one)):
        started = time.perf_counter()
        workers = Workers(executor="processes", count=2)
        matrix = run_plan(plan(concept), str(STORE), workers, _hear)
        seconds = time.perf_counter() - started
        _write(concept, matrix, seconds)
        print(f"{concept}: {len(matrix.cells)} cells in {seconds:.0f} s", flush=True)
    added = added_up([_read(RESULTS / f"{one}.json") for one in CONCEPTS if _done(one)])
    write_atomically(RESULTS / "matrix.png", heat_map(added))
    write_atomically(RESULTS / "transfers.png", transfer_map(added))


def added_up(results: Iterable[Mapping[str, Any]]) -> Matrix:
    """Adds up concepts to what the pictures show.

    Raises:
        ValueError: they are of different plans.
    """
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    found: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    plans = []
    for result in results:
        plans.append({**result["plan"], "concepts": []})
        for row in result["cells"]:
            cells[row["method"], row["attack"]].append(row)
        for source, target, onto, hits, count in result["transfers"]:
            found[source, target, onto][0] += hits
            found[source, target, onto][1] += count
    if any(one != plans[0] for one in plans):
        raise ValueError("results of different plans cannot be added up; measure the older anew")
    transfers = tuple(
        Transfer(source=source, target=target, onto=onto, estimate=_rate(*counts))
        for (source, target, onto), counts in found.items()
    )
    pooled = tuple(map(_cell, cells.values()))
    return Matrix(plan=plans[0], cells=(), pooled=pooled, transfers=transfers)


def _cell(rows: list[Mapping[str, Any]]) -> Cell:
    """Adds up one method under one attack; only valid rows are counted."""
    valid = [row for row in rows if row["verdict"] == "valid"]
    counts = [row["failure_rate"] for row in valid if row["failure_rate"]]
    return Cell(
        method=rows[0]["method"],
        attack=rows[0]["attack"],
        access=rows[0]["access"],
        verdict="valid" if valid else rows[0]["verdict"],
        reasons=tuple(reason for row in rows for reason in row["reasons"]) if not valid else (),
        failure_rate=_rate(*map(sum, zip(*counts, strict=True))) if counts else None,
    )


def _rate(hits: int, count: int) -> Estimate | None:
    return rate([1.0] * hits + [0.0] * (count - hits)) if count else None


def _done(concept: str) -> bool:
    """Whether a concept has results of today's plan, without a failure."""
    path = RESULTS / f"{concept}.json"
    if not path.exists():
        return False
    held = _read(path)
    whole = "transfers" in held and not held["failures"]
    return whole and held["plan"] == encoded(plan(concept))


def _read(path: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return held


def _write(concept: str, matrix: Matrix, seconds: float) -> None:
    plain = matrix.plain()
    facts = {
        "plan": plain["plan"],
        "seconds": round(seconds),
        "seconds_of_all_attacks": round(sum(cell["seconds"] for cell in plain["cells"])),
        "failures": plain["failures"],
        "cells": [],
        "transfers": [],
    }
    text = json.dumps(facts, indent=1)
    for name, rows in (
        ("cells", [_row(cell) for cell in plain["cells"]]),
        ("transfers", [_transfer(one) for one in matrix.transfers]),
    ):
        lines = ",\n".join(json.dumps(row) for row in rows)
        text = text.replace(f'"{name}": []', f'"{name}": [\n{lines}\n]')
    write_atomically(RESULTS / f"{concept}.json", f"{text}\n".encode())


def _row(cell: dict[str, Any]) -> dict[str, Any]:
    counted = {
        name: [cell[name]["hits"], cell[name]["count"]] if cell[name] else None for name in COUNTED
    }
    measured = {"evaluations": round(cell["evaluations"]), "curve": cell["curve"]}
    return {
        **{name: cell[name] for name in FACTS},
        **counted,
        **measured,
        "seconds": round(cell["seconds"], 1),
    }


def _transfer(one: Transfer) -> list[Any]:
    hits, count = (one.estimate.hits or 0, one.estimate.count) if one.estimate else (0, 0)
    return [one.source, one.target, one.onto, hits, count]


def _hear(title: str) -> Hear:
    def told(done: int, total: int, error: str) -> None:
        print(f"{title}: {done} of {total} {error}", flush=True)

    return told
