"""Two of sixteen classes are forgotten by the bundled detector.

    python -m benchmarks forgetting_detector   writes benchmarks/results/forgetting_detector.json

Each row is a request of its own on the unedited detector. AP50 is of the held-out scenes, counted
as COCO does, without a threshold of scores, as the mean over classes before and after; ``by_class``
has each. What has a row is not measured again; delete the file to measure anew.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

import efface
from efface.bundled.icons import pictures
from efface.concepts import Concept, request
from efface.evaluation.detection import (
    DetectedBoxes,
    DetectionScores,
    TrueBoxes,
    score_detections,
)
from efface.files import write_atomically
from efface.hosts.detector import Detector
from efface.hosts.vision import VisionModel
from efface.runs.erasing import erase

__all__ = ["run"]

RESULTS = Path(__file__).parent / "results" / "forgetting_detector.json"
MODEL, PRESET = "icons-detector", "icons-detector"
RUNS: tuple[tuple[int, str], ...] = (
    (0, "shorter"),
    (1, "shorter"),
    (0, ""),
    (0, "shorter and slower"),
    (1, ""),
    (2, "shorter"),
    (2, ""),
)
"""Which two classes, and the way of forgetting them."""
SHORTER: dict[str, Any] = {"rank": 4, "steps": 100, "learning_rate": 5e-3, "bound": 0.0}
WAYS: dict[str, dict[str, Any]] = {
    "": {},
    "shorter": SHORTER,
    "shorter and slower": SHORTER | {"learning_rate": 2e-3},
}
"""What differs from the preset."""


@torch.no_grad()
def scored(model: VisionModel) -> DetectionScores:
    """Scores what is found in the held-out scenes."""
    host, scenes = Detector(model), pictures(MODEL, "test")
    detected, true = [], []
    for start in range(0, len(scenes), 50):
        part = scenes.scenes(range(start, min(start + 50, len(scenes))))
        answer = host.detect(model.prepared([each.pixels for each in part]))
        detected += [
            DetectedBoxes(one.boxes, one.scores, one.classes) for one in host.found(answer)
        ]
        true += [TrueBoxes(each.boxes, each.classes) for each in part]
    return score_detections(detected, true, classes=host.classes)


def requested(model: VisionModel, turn: int, way: str, before: DetectionScores) -> dict[str, Any]:
    """Forgets two classes and measures all."""
    shuffled = torch.Generator().manual_seed(1337)
    order = torch.randperm(len(model.labels), generator=shuffled).tolist()
    gone, kept = order[2 * turn : 2 * turn + 2], order[: 2 * turn] + order[2 * turn + 2 :]
    concepts = [Concept(name=model.labels[number], kind="class") for number in gone]
    began = time.process_time()
    made = erase(model, request(concepts), method="gs_lora", preset=PRESET, seed=turn, **WAYS[way])
    seconds = time.process_time() - began
    whole = sum(weight.numel() for weight in model.model.parameters())
    with made.delta.apply(model):
        after = scored(model)
    return {
        "model": MODEL,
        "method": f"gs_lora {PRESET} {way}".rstrip(),
        "classes": [model.labels[number] for number in gone],
        "erased": _pair(before, after, gone),
        "kept": _pair(before, after, kept),
        "by_class": {
            model.labels[number]: [round(each.ap50(number), 4) for each in (before, after)]
            for number in sorted([*gone, *kept])
        },
        "parameters": made.diagnostics["trained_parameters"] / whole,
        "zero_groups": made.diagnostics["zero_group_ratio"],
        "processor_seconds": round(seconds, 1),
    }


def _pair(before: DetectionScores, after: DetectionScores, classes: list[int]) -> dict[str, Any]:
    """Gives mean AP50 before and after with intervals over scenes, and the number of things."""
    found = [each.mean_ap50(classes, torch.Generator().manual_seed(0)) for each in (before, after)]
    rows = [[round(x, 4) for x in (one.value, one.low, one.high)] for one in found]
    return {"before": rows[0], "after": rows[1], "things": found[0].count}


def run() -> None:
    """Measures what is missing, one line of output a row."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if RESULTS.exists():
        rows = json.loads(RESULTS.read_text())
    model = efface.load(MODEL)
    before = scored(model)
    for turn, way in RUNS[len(rows) :]:
        rows.append(requested(model, turn, way, before))
        write_atomically(RESULTS, (json.dumps(rows, indent=1) + "\n").encode())
        print(json.dumps(rows[-1]), flush=True)
