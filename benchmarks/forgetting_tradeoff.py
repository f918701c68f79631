"""Draws what few pictures leave of people who are to be forgotten against what they lose of others.

    python -m benchmarks forgetting_tradeoff     writes benchmarks/results/forgetting_tradeoff.*

The first request of icons-identities, of 20 people, with four pictures of each person, the setting
in which `benchmarks.forgetting` loses most. A line is one way, with more and more weight on what is
to go; one line has the same weight and more pictures. Rates are of held-out pictures. ``probe``
counts those of erased people that a linear classifier names, trained on the features of other
held-out pictures: what is unread rather than gone. What has a row is not measured again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.forgetting import SETTINGS, Bench
from efface.evaluation.probing import linear_probe
from efface.files import write_atomically
from efface.hosts.vision_families import vision_host
from efface.runs.erasing import erase

__all__ = ["run"]

MODEL = "icons-identities"
RESULTS = Path(__file__).parent / "results" / "forgetting_tradeoff.json"
FIGURE = RESULTS.with_suffix(".png")
HELD: dict[str, Any] = {"distil": 1.0, "distil_mixed": True}
FEW: dict[str, Any] = {"shots": 4}
LINES: dict[str, list[dict[str, Any]]] = {
    "the paper's terms": [FEW | {"forget_weight": weight} for weight in (0.3, 1.0, 3.0, 10.0)],
    "suppressed": [FEW | {"suppress": weight} for weight in (0.1, 0.3, 1.0, 10.0)],
    "suppressed and held": [FEW | HELD | {"suppress": weight} for weight in (1.0, 3.0, 10.0, 30.0)],
    "suppressed and held, 2 to 16 pictures": [
        HELD | {"suppress": 10.0, "shots": shots} for shots in (2, 4, 8, 16)
    ],
}
BARS = (6.0, 6.0)
"""Points of kept pictures that may be lost, and per cent of erased ones that may be left."""


def run() -> None:
    """Measures what is missing, one line of output a row, and draws all."""
    torch.set_num_threads(1)
    record: dict[str, Any] = {"command": "python -m benchmarks forgetting_tradeoff", "rows": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text("utf-8"))
    bench = Bench.bundled(MODEL)
    record.setdefault("probe before", _probed(bench))
    for settings in (one for line in LINES.values() for one in line):
        if any(row["settings"] == settings for row in record["rows"]):
            continue
        record["rows"].append(_measured(bench, settings))
        print(json.dumps(record["rows"][-1]), flush=True)
        write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())
    _draw(record["rows"])


def _measured(bench: Bench, settings: dict[str, Any]) -> dict[str, Any]:
    began = time.process_time()
    asked = bench.request(0)
    whole = SETTINGS[MODEL]["gs_lora"] | settings
    made = erase(bench.model, asked, method="gs_lora", preset="icons-plus", seed=0, **whole)
    seconds = round(time.process_time() - began, 1)
    with made.delta.apply(bench.model):
        found = {**bench.accuracies(0), "probe": _probed(bench)}
    return {"settings": settings, **found, "processor_seconds": seconds}


def _probed(bench: Bench) -> list[int]:
    """Counts held-out pictures of erased people that a classifier of features names, and all."""
    host: Any = vision_host(bench.model)
    with torch.no_grad():
        features = torch.cat([host.both(part)[1] for part in bench.pixels.split(256)])
    probe = linear_probe(
        features, bench.labels, generator=torch.Generator().manual_seed(0), of=bench.classes(0)
    )
    return [int(sum(probe.hits)), len(probe.hits)]


def _draw(rows: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    found = {_key(row["settings"]): row for row in rows}
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    below = "suppressed and held"  # Its points and others' are close together.
    for marker, (name, line) in zip("osD^", LINES.items(), strict=True):
        points = [_point(found[_key(settings)]) for settings in line]
        axis.plot(*zip(*points, strict=True), marker=marker, label=name)
        for point, settings in zip(points, line, strict=True):
            told = [*settings.values()][-1]
            aside = (-5, -13) if name == below else (4, 4)
            axis.annotate(f"{told:g}", point, xytext=aside, textcoords="offset points", size=8)
    axis.axvline(BARS[0], color="grey", linestyle=":")
    axis.axhline(BARS[1], color="grey", linestyle=":")
    axis.set(xlabel="points lost of kept people", ylabel="per cent of erased people recognised")
    axis.legend(frameon=False)
    figure.savefig(FIGURE, dpi=110)


def _key(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _point(row: dict[str, Any]) -> tuple[float, float]:
    """Gives the loss of what is kept and the rest of what is erased, in per cent."""
    before, after, count = row["kept"]
    _, left, pictures = row["erased"]
    return 100 * (before - after) / count, 100 * left / pictures
