"""What one erasure takes by itself: each in a process of its own, with two threads.

    python -m benchmarks alone                    writes benchmarks/results/alone.json
    python -m benchmarks.alone esd pistol         prints one measurement as JSON

A noun by every method with the bundled model's presets; pools are made anew, and no
judge is loaded. Run it on a machine that does nothing else. What has a result is not run again.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch

import efface
from benchmarks.concepts import STYLE_ANCHOR, TRAINED_NOUNS, TRAINED_STYLES, WITHOUT_ANCHOR
from benchmarks.processes import held, took
from benchmarks.training import METHODS
from efface.bundled import understood
from efface.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "alone.json"
CONCEPTS = TRAINED_NOUNS[:1]
THREADS = 2


def run() -> None:
    """Measures what has no result yet."""
    record: dict[str, Any] = {"command": "python -m benchmarks alone", "rows": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text())
    known = {(row["method"], row["concept"]) for row in record["rows"]}
    for method, concept in product(METHODS, CONCEPTS):
        if (method, concept) not in known:
            record["rows"].append(took("benchmarks.alone", method, concept, threads=THREADS))
            print(record["rows"][-1], flush=True)
            write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())


def main() -> None:
    """Erases one concept by one method and prints what it took."""
    method, concept = sys.argv[1:]
    torch.set_num_threads(THREADS)
    pipe = efface.load("emoji")
    steered = concept in TRAINED_STYLES and method not in WITHOUT_ANCHOR
    anchor = STYLE_ANCHOR if steered else None
    request = understood(efface.request(concept, anchor=anchor))
    before = held()
    result = efface.erase(pipe, request, method=method)
    told = {
        "method": method,
        "concept": concept,
        "seconds": round(result.seconds, 1),
        "loaded_bytes": before,
        "peak_bytes": held(),
        "evaluations": result.diagnostics.get("network_evaluations", 0),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
