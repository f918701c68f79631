"""Chooses settings of the baselines on a request that no table is about.

    python -m benchmarks forgetting_tuning     writes benchmarks/results/forgetting_tuning.json

The fourth request of icons-vit, of 8 classes, on the unedited model: every baseline of
`benchmarks.forgetting` that learns, with the preset for small models and with others. ``chosen``
are those that leave the fewest pictures of what goes, among those that cost what is kept at most
three points, and of equals the cheaper for what is kept; where none is that mild, those that cost
least. They are the preset ``icons-vit``, or ``icons`` where nothing else was chosen. What has a row
is not measured again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.forgetting import Bench
from efface.files import write_atomically
from efface.runs.erasing import erase
from efface.runs.forgetting_eraser import SMALL

__all__ = ["chosen", "run"]

RESULTS = Path(__file__).parent / "results" / "forgetting_tuning.json"
TURN = 3
LOST = 0.03
"""Share of kept pictures that a setting may cost."""


def _rates(*rates: float, **beside: Any) -> list[dict[str, Any]]:
    return [SMALL | {"learning_rate": rate} | beside for rate in rates]


LABELS: dict[str, Any] = {"exclude_true": True}
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "fine_tune": _rates(5e-4, 2e-3, 5e-3, 1e-2),
    "l1_sparse": [
        *_rates(5e-4, l1=2e-5),
        *_rates(2e-3, 5e-3, l1=2e-5),
        *_rates(5e-4, 2e-3, l1=2e-4),
    ],
    "gradient_ascent": [
        *_rates(1e-4, 2e-4, 4e-4, retain_weight=0.9),
        *_rates(1e-4, 2e-4, retain_weight=0.7),
    ],
    "random_labels": [*_rates(5e-4, 1e-3, 2e-3, **LABELS), *_rates(1e-3, **LABELS, steps=120)],
    "random_labels -salun": [
        *_rates(5e-4, 1e-3, 2e-3, **LABELS, saliency=0.5),
        *_rates(1e-3, **LABELS, saliency=0.5, steps=120),
    ],
    "boundary_shrink": _rates(5e-5, 1e-4, 2e-4, 4e-4, steps=40),
    "boundary_expand": _rates(5e-5, 1e-4, 2e-4, 4e-4, steps=40),
    "bad_teacher": [*_rates(5e-4, 1e-3, 2e-3), *_rates(1e-3, steps=120)],
    "scrub": _rates(1e-4, 2e-4, 5e-4, epochs=1.0, max_epochs=1),
    "last_layers": [
        *_rates(1e-3, 3e-3, start="drawn", layers=2),
        *_rates(1e-3, 3e-3, start="drawn", layers=1),
        *_rates(3e-3, start="drawn", layers=2, steps=120),
    ],
}


def run() -> None:
    """Measures what is missing, one line of output a row."""
    torch.set_num_threads(1)
    bench = Bench.bundled("icons-vit")
    record: dict[str, Any] = {"command": "python -m benchmarks forgetting_tuning", "rows": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text("utf-8"))
    for label, candidates in CANDIDATES.items():
        for settings in candidates:
            told = {name: value for name, value in settings.items() if SMALL.get(name) != value}
            known = [(row["method"], row["settings"]) for row in record["rows"]]
            if (label, told) in known:
                continue
            row = {"method": label, "settings": told} | _measured(bench, label, settings)
            record["rows"].append(row)
            print(json.dumps(row), flush=True)
            record["chosen"] = chosen(record["rows"])
            write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())


def _measured(bench: Bench, label: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Forgets the request's classes and counts what is recognised."""
    method = label.partition(" ")[0]
    began = time.process_time()
    made = erase(bench.model, bench.request(TURN), method=method, seed=0, **settings)
    seconds = round(time.process_time() - began, 1)
    with made.delta.apply(bench.model):
        found = bench.recognised()
    gone = torch.isin(bench.labels, torch.tensor(bench.classes(TURN)))
    counted = {"erased": bench.counts(gone, found), "kept": bench.counts(~gone, found)}
    return {**counted, "processor_seconds": seconds}


def chosen(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Gives the settings of each method by the rule above.

    Args:
        rows: of `run`: pictures recognised before, after, and all, by role.
    """

    def order(row: dict[str, Any]) -> tuple[bool, float, float]:
        before, after, _ = row["kept"]
        lost = max(0.0, (before - after) / before)
        mild = lost <= LOST
        return (not mild, row["erased"][1] if mild else 0, lost)

    methods = dict.fromkeys(row["method"] for row in rows)
    best = {name: [row for row in rows if row["method"] == name] for name in methods}
    return {name: min(own, key=order)["settings"] for name, own in best.items()}
