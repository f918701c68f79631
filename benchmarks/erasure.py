"""Erases 24 nouns and 4 styles one at a time by every method, with the bundled model's preset.

    python -m benchmarks erasure     writes benchmarks/results/erasure/<method>/<concept>.json

Objects go without an anchor, styles become another style: see `benchmarks.concepts`.
What has a result is not run again; delete a file to measure it anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import efface
from benchmarks.concepts import MEASURED_NOUNS, MEASURED_STYLES
from benchmarks.methods import CLOSED_FORMS
from benchmarks.sweeping import jobs, swept
from efface.bundled.clip import EmojiClip
from efface.bundled.judge import EmojiJudge
from efface.contracts import Suite
from efface.deltas.delta import Delta
from efface.evaluation.encoding import decoded, encoded
from efface.evaluation.images import ImageStore
from efface.evaluation.record import Evaluation
from efface.files import write_atomically
from efface.registry import bundled

RESULTS = Path(__file__).parent / "results" / "erasure"
PICTURES = Path("runs") / ".benchmark-pictures"


def unmeasured(
    results: Path, methods: Sequence[str], concepts: Sequence[str]
) -> Iterator[tuple[str, str, Path]]:
    """Method, concept and file of what has no result yet, all methods of a concept in turn."""
    for concept in concepts:
        for method in methods:
            path = results / method / f"{concept.replace(' ', '_')}.json"
            if not path.exists():
                yield method, concept, path


class Bench:
    """What the runs of an experiment share: a bundled model, its judge, pictures made before."""

    def __init__(self, model: str = "emoji") -> None:
        self.pipe = efface.load(model)
        self.pipe.set_progress_bar_config(disable=True)
        self.judge, self.clip = EmojiJudge(bundled(model).JUDGE), EmojiClip()
        self.store = ImageStore(PICTURES, batch_size=64)

    def measured(self, delta: Delta, suite: Suite) -> Evaluation:
        """Draws a suite's pictures before and after an edit and looks at them."""
        return efface.evaluate(
            self.pipe, delta, suite, self.judge, store=self.store, clip=self.clip
        )


def run() -> None:
    """Measures what is missing, one line of output a result."""
    wanted = jobs(CLOSED_FORMS, (*MEASURED_NOUNS, *MEASURED_STYLES))
    for job, path, row in swept(RESULTS, wanted):
        found = decoded(Evaluation, row["evaluation"])
        write(path, found, {"erase_seconds": row["seconds"], "diagnostics": row["diagnostics"]})
        print(f"{job.method:6} {job.concept:16} {found.verdict:12} {summary(found)}", flush=True)


def write(path: Path, found: Evaluation, more: dict[str, Any]) -> None:
    """Writes an evaluation without its samples, and what else an experiment knows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(slim(found) | more, indent=1) + "\n").encode())


def slim(found: Evaluation) -> dict[str, Any]:
    """The evaluation without its list of samples and prompts, which the suite's version fixes."""
    whole: dict[str, Any] = encoded(found)
    kept = ("suite", "judge", "verdict", "reasons", "measurements", "controls", "costs", "created")
    record = {name: whole[name] for name in (*kept, "versions")}
    made = whole["provenance"]
    erasures = [
        {"concept": {key: each["concept"][key] for key in ("name", "kind")}}
        | {"anchor": each["anchor"] and each["anchor"]["name"]}
        for each in made["request"]["erasures"]
    ]
    told = {name: made[name] for name in ("method", "revision", "settings", "seed")}
    record["provenance"] = told | {"request": {"erasures": erasures}}
    record["command"] = "python -m benchmarks erasure"
    return record


def summary(found: Evaluation) -> str:
    """Presence before and after, by role."""
    parts = []
    for role in ("erased", "synonym", "paraphrase", "neighbour", "kept"):
        for metric in ("presence", "style_presence"):
            one = found.find(metric, role)
            if one is not None and one.before is not None and one.after is not None:
                parts.append(f"{role} {metric} {one.before.value:.2f}->{one.after.value:.2f}")
    return ", ".join(parts)
