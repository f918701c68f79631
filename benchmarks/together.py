"""Erases five nouns at once, by the methods whose papers claim several concepts.

    python -m benchmarks together     writes results/together/<method>-<seed>.json

Presets are those of one concept; pools and steps grow, since they are shared by five. uce stands
beside. What has a result is not run again; delete a file to measure it anew.

    python -m benchmarks.together sweep     writes results/presets/ant_fused.json

ant trains layers of each concept and fuses them; how is chosen on the tuning nouns, by the rule of
`benchmarks.presets`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import efface
from benchmarks import presets
from benchmarks.concepts import TRAINED_NOUNS, TUNING
from benchmarks.erasure import Bench, summary, write
from benchmarks.training import SEEDS, told
from efface.bundled import understood, vocabulary
from efface.bundled.suites import emoji_suite
from efface.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "together"
NOUNS = TRAINED_NOUNS[:5]
MORE: dict[str, Any] = {"trajectories": 120, "steps": 300}
"""Instead of 48 trajectories and 120 steps."""
METHODS: dict[str, dict[str, Any]] = {
    "spm": MORE,
    "ant": MORE | {"several": "fused"},
    "trce+trce_vision": {"trce_vision": MORE},
    "realera+realera_noise": {"realera_noise": MORE},
    "uce": {},
}


FUSIONS: tuple[dict[str, Any], ...] = (
    {"fusion_scale": 4.3, "fusion_keep": 1.0},
    {"fusion_scale": 2.0, "fusion_keep": 3.0},
    {"fusion_scale": 2.0, "fusion_keep": 10.0},
)
"""How ant's layers are fused; the first as published."""


def sweep() -> None:
    """Erases three tuning nouns at once, fused in every way, and says which one is chosen."""
    torch.set_num_threads(1)
    bench, rows = presets.Tuner(), []
    nouns = [one for one in TUNING if one in vocabulary.NOUNS]
    alone = json.loads((presets.RESULTS / "ant.json").read_text())["chosen"]
    for fusion in FUSIONS:
        settings = alone | METHODS["ant"] | fusion
        rows.append(bench.score("ant", settings, [nouns]))
        print(fusion, {name: cell["rate"] for name, cell in rows[-1]["after"].items()})
    best = presets.chosen(rows)
    record = {"command": "python -m benchmarks.together sweep", "concepts": nouns, "rows": rows}
    record["chosen"] = best["settings"] if best else None
    path = presets.RESULTS / "ant_fused.json"
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())


def missing() -> Iterator[tuple[str, int, Path]]:
    """Method, seed and file of every result that is not there yet."""
    for seed in SEEDS:
        for method in METHODS:
            path = RESULTS / f"{method}-{seed}.json"
            if not path.exists():
                yield method, seed, path


def run() -> None:
    """Measures what is missing, one line of output a result."""
    torch.set_num_threads(1)
    bench = Bench()
    request = understood(efface.request(NOUNS))
    suite = emoji_suite(request, size="benchmark")
    for method, seed, path in missing():
        result = efface.erase(bench.pipe, request, method=method, seed=seed, **METHODS[method])
        found = bench.measured(result.delta, suite)
        write(path, found, told(vars(result)) | {"command": "python -m benchmarks together"})
        print(f"{method:22} {seed} {found.verdict:12} {summary(found)}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] != ["sweep"]:
        raise SystemExit("python -m benchmarks.together sweep, or python -m benchmarks together")
    sweep()
