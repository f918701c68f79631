"""Draws what candidates of methods that train leave of concepts against what others lose.

    python -m benchmarks tradeoff     writes results/tradeoff.png from results/presets

On the tuning nouns. A line is the best trade-off of a method: none of its candidates leaves less at
the same loss. The ring is the preset, which was chosen on styles, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import presets
from benchmarks.candidates import TRAINED
from benchmarks.presets import left, lost

RESULTS = Path(__file__).parent / "results" / "tradeoff.png"
BARS = (5.0, 10.0)
"""Points of kept nouns that may be lost, and per cent of a concept that may be left."""


def run() -> None:
    """Draws every method whose candidates are measured."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for place, name in enumerate(TRAINED):
        record = json.loads((presets.RESULTS / f"{name}.json").read_text())
        points = {json.dumps(row["settings"]): _point(row) for row in record["rows"]}
        front = _front([*points.values()])
        axis = axes[place % 2]
        (line,) = axis.plot(*zip(*front, strict=True), label=name)
        axis.scatter(*zip(*points.values(), strict=True), s=14, color=line.get_color(), alpha=0.6)
        best = points[json.dumps(record["chosen"])]
        axis.scatter(*best, s=90, facecolors="none", edgecolors=line.get_color())
    for axis in axes:
        axis.axvline(BARS[0], color="grey", linestyle=":")
        axis.axhline(BARS[1], color="grey", linestyle=":")
        axis.set(xlabel="points lost of kept nouns", xlim=(-0.5, 12), ylim=(-1.5, 60))
        axis.legend(frameon=False)
    axes[0].set_ylabel("per cent left, with synonyms")
    figure.savefig(RESULTS, dpi=110)


def _point(row: dict[str, Any]) -> tuple[float, float]:
    """Gives the loss and what is left of the nouns, in per cent."""
    nouns = {name: cell for name, cell in row.items() if name != "styles"}
    return 100 * lost(nouns, "kept"), 100 * left(nouns)


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keeps the points that no other one beats in both, by growing loss."""
    kept: list[tuple[float, float]] = []
    for loss, rest in sorted(set(points)):
        if not kept or rest < kept[-1][1]:
            kept.append((loss, rest))
    return kept
