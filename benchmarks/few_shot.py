"""Few-shot unlearning of the text encoder: with retention, and as the paper has it.

    python -m benchmarks few_shot     writes results/few_shot.json

8 nouns and 2 styles by the presets ``emoji`` and ``emoji-bare``, with pictures that the unedited
model draws and no anchor, on the small suite. The preset was chosen on dog, swords, mage,
watercolor and sepia, which are not among them. What has a row is not run again.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import efface
from benchmarks.concepts import TRAINED_NOUNS, TRAINED_STYLES
from benchmarks.erasure import Bench, summary
from efface.bundled import understood
from efface.bundled.suites import emoji_suite
from efface.errors import MeasurementFailed
from efface.files import write_atomically
from efface.reports.whereabouts import whereabouts

RESULTS = Path(__file__).parent / "results" / "few_shot.json"
CONCEPTS = (*TRAINED_NOUNS, *TRAINED_STYLES)
ORDER = (("emoji", 0), ("emoji-bare", 0), ("emoji", 1), ("emoji-bare", 1))
ROLES = ("erased", "synonym", "neighbour", "kept")


def run() -> None:
    """Measures what is missing, one line of output a row."""
    torch.set_num_threads(1)
    bench = Bench()
    rows: list[dict[str, Any]] = []
    if RESULTS.exists():
        rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    done = {(row["preset"], row["seed"], row["concept"]) for row in rows}
    for preset, seed in ORDER:
        for concept in CONCEPTS:
            if (preset, seed, concept) not in done:
                rows.append(_row(bench, preset, seed, concept))
                _write(rows)


def _row(bench: Bench, preset: str, seed: int, concept: str) -> dict[str, Any]:
    request = understood(efface.request(concept))
    suite = emoji_suite(request, size="sweep")
    suite = replace(suite, image_metrics=("presence", "style_presence"), set_metrics=())
    row: dict[str, Any] = {"preset": preset, "seed": seed, "concept": concept}
    began, processor = time.perf_counter(), time.process_time()
    try:
        result = efface.erase(bench.pipe, request, method="few_shot", preset=preset, seed=seed)
    except MeasurementFailed as error:
        print(f"{preset:10} {concept:12} {seed} {error}", flush=True)
        return row | {"failed": str(error)}
    row |= {"seconds": round(time.perf_counter() - began, 1)}
    row |= {"processor_seconds": round(time.process_time() - processor, 1)}
    row |= {name: result.diagnostics[name] for name in ("network_evaluations", "stopped", "drift")}
    found = bench.measured(result.delta, suite)
    print(f"{preset:10} {concept:12} {seed} {summary(found)}", flush=True)
    for role in ROLES:
        one = found.find("presence", role)  # type: ignore[arg-type]
        if one is not None and one.before is not None and one.after is not None:
            row[role] = [one.before.hits, one.after.hits, one.after.count]
    styles = found.find("style_presence", "kept")
    if styles is not None and styles.before is not None and styles.after is not None:
        row["kept style"] = [styles.before.hits, styles.after.hits, styles.after.count]
    went = [list(each) for place in whereabouts(found) for each in place.rows]
    return row | {"verdict": found.verdict, "shows": went}


def _write(rows: list[dict[str, Any]]) -> None:
    """Writes rows and what they add up to: hits before, hits after, and pictures."""
    totals = {}
    for preset, seed in ORDER:
        own = [row for row in rows if (row["preset"], row["seed"]) == (preset, seed)]
        totals[f"{preset}, seed {seed}"] = {
            role: [sum(row[role][place] for row in own if role in row) for place in range(3)]
            for role in (*ROLES, "kept style")
        } | {
            "concepts": len(own),
            "failed": sum("failed" in row for row in own),
            "most processor seconds": max(
                (row["processor_seconds"] for row in own if "processor_seconds" in row), default=0.0
            ),
        }
    told = {"command": "python -m benchmarks few_shot", "totals": totals, "rows": rows}
    write_atomically(RESULTS, (json.dumps(told, indent=1) + "\n").encode())


if __name__ == "__main__":
    run()
