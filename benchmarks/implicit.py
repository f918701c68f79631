"""Erases nouns from a model that understands descriptions, and asks for them by descriptions alone.

    python -m benchmarks implicit     writes results/implicit/<method>/<concept>.json

emoji-reader draws what the vocabulary's descriptions mean. An erasure is given names and synonyms,
never a description, so these are the implicit prompts that TRCE's paper measures on. Presets are
those of the bundled model, whose U-Net this is. Stages that stand alone go beside the whole.
What has a result is not run again; delete a file to measure it anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import efface
from benchmarks import training
from benchmarks.concepts import TRAINED_NOUNS
from benchmarks.erasure import Bench, summary, unmeasured, write
from efface.bundled import understood
from efface.bundled.suites import emoji_suite

RESULTS = Path(__file__).parent / "results" / "implicit"
METHODS = (*training.METHODS, "trce", "trce_vision", "realera")


def run(methods: tuple[str, ...] = METHODS) -> None:
    """Measures what is missing, one line of output a result."""
    torch.set_num_threads(1)
    bench = Bench("emoji-reader")
    for method, concept, path in unmeasured(RESULTS, methods, TRAINED_NOUNS):
        request = understood(efface.request(concept))
        result = efface.erase(bench.pipe, request, method=method)
        found = bench.measured(result.delta, emoji_suite(request, size="implicit"))
        more = training.told(result) | {"command": "python -m benchmarks implicit"}
        write(path, found, more)
        print(f"{method:22} {concept:12} {summary(found)}", flush=True)


if __name__ == "__main__":
    run(tuple(sys.argv[1:]) or METHODS)
