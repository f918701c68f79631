"""Trains on one bundled model, applies to its fine-tune, and measures there; nothing is retrained.

    python -m benchmarks transfer     writes results/transfer/<method>/<concept>.json

Membranes are made to be carried over (SPM); two edits of other methods go beside them.
Before and after are both pictures of emoji-remix, looked at by its own judge.
"""

from __future__ import annotations

from pathlib import Path

import torch

import efface
from benchmarks.concepts import TRAINED_NOUNS
from benchmarks.erasure import Bench, summary, unmeasured, write
from efface.bundled import understood
from efface.bundled.suites import emoji_suite
from efface.runs.transfer import distance, transferred

RESULTS = Path(__file__).parent / "results" / "transfer"
METHODS = ("spm", "esd", "uce")


def run() -> None:
    """Measures what is missing, one line of output a result."""
    torch.set_num_threads(1)
    base, bench = efface.load("emoji"), Bench("emoji-remix")
    base.set_progress_bar_config(disable=True)
    for method, concept, path in unmeasured(RESULTS, METHODS, TRAINED_NOUNS):
        request = understood(efface.request(concept))
        result = efface.erase(base, request, method=method)
        delta = transferred(result.delta, bench.pipe)
        found = bench.measured(delta, emoji_suite(request, size="benchmark"))
        apart = {"base_distance": distance(result.delta, bench.pipe)}
        write(path, found, apart | {"command": "python -m benchmarks transfer"})
        print(f"{method:6} {concept:16} {found.verdict:12} {summary(found)}", flush=True)
