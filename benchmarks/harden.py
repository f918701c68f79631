"""How soon is an erased concept relearnt, before and after hardening?

    python -m benchmarks harden     writes benchmarks/results/harden.json and harden.png

An attacker has eight pictures of the concept that the unedited model drew, and trains layers of
rank 4 beside all attention with Adam. Three step sizes, fixed beforehand: Adam is blind to the
scale of gradients, so an attacker would try several. ``half`` is the first of the looks at which at
least half of the concept's pictures show it again, None if none of them does; looks stop there.
Other ways than the preset are tried on one erasure. What has a row is not measured again; delete
the file to measure anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import efface
from efface.bundled import understood
from efface.bundled.judge import EmojiJudge
from efface.bundled.suites import GUIDANCE, emoji_suite
from efface.bundled.vocabulary import STYLES, concept, prompt
from efface.bundled.wordings import EDIT_STYLED
from efface.contracts import Sample
from efface.evaluation.drawing import draw
from efface.files import write_atomically
from efface.randomness import derive
from efface.training.relearning import Relearning, encoded_pictures, relearn

__all__ = ["plot", "run"]

RESULTS = Path(__file__).parent / "results" / "harden.json"
CONCEPTS, METHODS = ("pistol", "cat"), ("esd", "uce")
OTHERS: dict[str, dict[str, Any]] = {
    "preset": {},
    "three times the steps": {"steps": 150},
    "attackers of three times the step": {"attack_rate": 0.009},
    "attacked predictions weigh four times": {"attacked_weight": 4.0},
}
TRIED_ON = ("cat", "uce")
RATES = (3e-3, 1e-3, 1e-2)
LOOKS = (0, 5, 10, 15, 20, 30, 45, 60, 90)
PICTURES, SHOWN, KEPT, STEPS = 8, 12, 24, 12


class _HalfBack(Exception):
    """Ends a relearning whose question is answered."""


class Bench:
    """The bundled model and its judge."""

    def __init__(self) -> None:
        self.pipe = efface.load("emoji")
        self.judge = EmojiJudge()

    def drawn(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Draws samples with what is applied, in fewer steps than the suite."""
        pixels = draw(self.pipe, samples, steps=STEPS, guidance=GUIDANCE).pixels
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255

    def shown(self, samples: Sequence[Sample]) -> int:
        """Counts pictures that show their concept."""
        pairs = zip(self.drawn(samples), samples, strict=True)
        found = [float(self.judge.presence(one[None], each.concept)) for one, each in pairs]
        return sum(value >= self.judge.card.threshold for value in found)


def run() -> None:
    """Measures what is missing, one line of output a row, and plots all."""
    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    bench = Bench()
    wanted = [("preset", name, method) for method in METHODS for name in CONCEPTS]
    wanted += [(way, *TRIED_ON) for way in OTHERS if way != "preset"]
    done = [(row.setdefault("way", "preset"), row["concept"], row["method"]) for row in rows]
    for way, name, method in wanted:
        if (way, name, method) not in done:
            rows.append(measured(bench, name, method, way))
            write_atomically(RESULTS, (json.dumps(rows, indent=1) + "\n").encode())
            print(json.dumps(rows[-1]), flush=True)
    plot(rows)


def measured(bench: Bench, name: str, method: str, way: str) -> dict[str, Any]:
    """Erases, hardens in one of the ways, and lets an attacker relearn from both."""
    request = understood(efface.request(name))
    suite = emoji_suite(request, size="short").samples
    own = [sample for sample in suite if sample.role == "erased"][:SHOWN]
    kept = [sample for sample in suite if sample.role == "kept"][:KEPT]
    looks = list(STYLES.values())[:PICTURES]
    texts = [prompt(EDIT_STYLED[n % 3], name, style=s.wording) for n, s in enumerate(looks)]
    taught = [Sample(text, 900 + n, "erased", concept(name)) for n, text in enumerate(texts)]
    clean = encoded_pictures(bench.pipe, bench.drawn(taught))
    row: dict[str, Any] = {
        "concept": name,
        "method": method,
        "way": way,
        "pictures": {"own": len(own), "kept": len(kept), "taught": len(taught)},
        "unedited": {"shown": bench.shown(own), "kept": bench.shown(kept)},
        "command": "python -m benchmarks harden",
    }
    first = efface.erase(bench.pipe, request, method=method)
    with first.delta.apply(bench.pipe):
        row["before"] = _attacked(bench, own, kept, clean, texts)
        second = efface.erase(bench.pipe, request, method="harden", **OTHERS[way])
        with second.delta.apply(bench.pipe):
            row["after"] = _attacked(bench, own, kept, clean, texts)
    row["settings"] = dict(second.delta.provenance.settings)
    row["seconds"] = {"erase": round(first.seconds, 1), "harden": round(second.seconds, 1)}
    row["network_evaluations"] = second.diagnostics["network_evaluations"]
    return row


def _attacked(
    bench: Bench,
    own: Sequence[Sample],
    kept: Sequence[Sample],
    clean: torch.Tensor,
    texts: Sequence[str],
) -> dict[str, Any]:
    """Counts what is shown and kept, and relearns at every rate until half is back."""
    told: dict[str, Any] = {"kept": bench.shown(kept), "curves": {}, "half": {}}
    for rate in RATES:
        curve: dict[int, int] = {}

        def look(step: int, curve: dict[int, int] = curve) -> None:
            curve[step] = bench.shown(own)
            if 2 * curve[step] >= len(own):
                raise _HalfBack

        settings = Relearning(steps=LOOKS[-1], learning_rate=rate)
        try:
            draws = derive(0, "relearning")
            relearn(bench.pipe, clean, texts, settings, generator=draws, at=LOOKS, look=look)
        except _HalfBack:
            pass
        told["curves"][str(rate)] = curve
        told["half"][str(rate)] = next((s for s, n in curve.items() if 2 * n >= len(own)), None)
    return told


def plot(rows: Sequence[dict[str, Any]]) -> None:
    """Draws the curves of all rows, before and after, into one picture."""
    from matplotlib.figure import Figure

    if not rows:
        return
    figure = Figure(figsize=(3.2 * len(RATES), 2.6 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(RATES), squeeze=False, sharey=True)
    for line, row in zip(axes, rows, strict=True):
        for place, rate in zip(line, RATES, strict=True):
            for when, style in (("before", "--"), ("after", "-")):
                curve = row[when]["curves"][str(rate)]
                shares = [count / row["pictures"]["own"] for count in curve.values()]
                place.plot([int(step) for step in curve], shares, style, marker="o", label=when)
            place.axhline(0.5, color="grey", linewidth=0.5)
            title = f"{row['concept']}, {row['method']}, rate {rate}"
            place.set(ylim=(0, 1))
            way = "" if row["way"] == "preset" else f"\n{row['way']}"
            place.set_title(f"{title}{way}", fontsize=8)
    axes[0][0].legend(title="hardening")
    axes[-1][0].set(xlabel="steps of relearning", ylabel="shown again")
    figure.savefig(RESULTS.with_suffix(".png"), dpi=80)
