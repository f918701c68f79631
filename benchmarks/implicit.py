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

from benchmarks import training
from benchmarks.concepts import TRAINED_NOUNS
from benchmarks.erasure import summary, write
from benchmarks.sweeping import jobs, swept
from efface.evaluation.encoding import decoded
from efface.evaluation.record import Evaluation

RESULTS = Path(__file__).parent / "results" / "implicit"
METHODS = (*training.METHODS, "trce", "trce_vision", "realera")


def run(methods: tuple[str, ...] = METHODS) -> None:
    """Measures what is missing, one line of output a result."""
    wanted = jobs(methods, TRAINED_NOUNS, model="emoji-reader", size="implicit")
    for job, path, row in swept(RESULTS, wanted):
        found = decoded(Evaluation, row["evaluation"])
        write(path, found, training.told(row) | {"command": "python -m benchmarks implicit"})
        print(f"{job.method:22} {job.concept:12} {summary(found)}", flush=True)


if __name__ == "__main__":
    run(tuple(sys.argv[1:]) or METHODS)
