"""Erases 8 nouns and 2 styles by every method that trains, with the bundled model's presets.

    python -m benchmarks training     writes results/training/<method>/<concept>-<seed>.json

Nouns go without an anchor, styles become another style; two seeds each, the first of all concepts
first. Closed forms are measured alike, to stand beside them. Pools that runs have in common are
made once, and what they took is counted every time; ``alone`` measures time and memory.
What has a result is not run again; delete a file to measure it anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import efface
from benchmarks.concepts import STYLE_ANCHOR, TRAINED_NOUNS, TRAINED_STYLES, WITHOUT_ANCHOR
from benchmarks.erasure import Bench, summary, write
from benchmarks.methods import WITH_FIRST_STAGES
from efface.bundled import understood
from efface.bundled.suites import emoji_suite

RESULTS = Path(__file__).parent / "results" / "training"
METHODS = WITH_FIRST_STAGES
SEEDS = (0, 1)


def missing() -> Iterator[tuple[str, str, int, Path]]:
    """Method, concept, seed and file of every result that is not there yet."""
    for seed in SEEDS:
        for concept in (*TRAINED_NOUNS, *TRAINED_STYLES):
            for method in METHODS:
                path = RESULTS / method / f"{concept.replace(' ', '_')}-{seed}.json"
                if not path.exists():
                    yield method, concept, seed, path


def run(methods: tuple[str, ...] = METHODS) -> None:
    """Measures what is missing, one line of output a result."""
    torch.set_num_threads(1)
    bench = Bench()
    for method, concept, seed, path in missing():
        if method not in methods:
            continue
        steered = concept in TRAINED_STYLES and method not in WITHOUT_ANCHOR
        anchor = STYLE_ANCHOR if steered else None
        request = understood(efface.request(concept, anchor=anchor))
        result = efface.erase(bench.pipe, request, method=method, seed=seed)
        found = bench.measured(result.delta, emoji_suite(request, size="benchmark"))
        write(path, found, told(result) | {"command": "python -m benchmarks training"})
        print(f"{method:22} {concept:16} {seed} {summary(found)}", flush=True)


def told(result: Any) -> dict[str, Any]:
    """What the run itself reports, without the settings of the saliency or the gate."""
    return {
        "erase_seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
        "network_evaluations": result.diagnostics.get("network_evaluations", 0),
        "weight_change": result.diagnostics["weight_change"],
        "curves": {name: values[::10] for name, values in result.curves.items()},
    }


if __name__ == "__main__":
    run(tuple(sys.argv[1:]) or METHODS)
