"""Erases 8 nouns and 2 styles by every method that trains, with the bundled model's presets.

    python -m benchmarks training     writes results/training/<method>/<concept>-<seed>.json

Nouns go without an anchor, styles become another style; two seeds each, the first of all concepts
first. Closed forms are measured alike, to stand beside them. A process makes pools that runs have
in common once, and what they took is counted every time; ``alone`` measures time and memory.
What has a result is not run again; delete a file to measure it anew.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.concepts import TRAINED_NOUNS, TRAINED_STYLES
from benchmarks.erasure import summary, write
from benchmarks.methods import WITH_FIRST_STAGES
from benchmarks.sweeping import jobs, swept
from efface.evaluation.encoding import decoded
from efface.evaluation.record import Evaluation

RESULTS = Path(__file__).parent / "results" / "training"
METHODS = WITH_FIRST_STAGES
SEEDS = (0, 1)


def run(methods: tuple[str, ...] = METHODS) -> None:
    """Measures what is missing, one line of output a result."""
    wanted = jobs(methods, (*TRAINED_NOUNS, *TRAINED_STYLES), seeds=SEEDS)
    for job, path, row in swept(RESULTS, wanted, seeds=True):
        found = decoded(Evaluation, row["evaluation"])
        write(path, found, told(row) | {"command": "python -m benchmarks training"})
        print(f"{job.method:22} {job.concept:16} {job.seed} {summary(found)}", flush=True)


def told(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the run itself reports, without the settings of the saliency or the gate."""
    diagnostics = result["diagnostics"]
    return {
        "erase_seconds": result["seconds"],
        "peak_bytes": result["peak_bytes"],
        "network_evaluations": diagnostics.get("network_evaluations", 0),
        "weight_change": diagnostics["weight_change"],
        "curves": {name: values[::10] for name, values in result["curves"].items()},
    }


if __name__ == "__main__":
    run(tuple(sys.argv[1:]) or METHODS)
