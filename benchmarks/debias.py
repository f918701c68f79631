"""Balances the eight styles of six nouns of the bundled model: shares before and after.

    python -m benchmarks debias     writes benchmarks/results/debias.json

The rounds draw three wordings; both measurements draw a fourth and a fifth that no round and no
keep set has, with other seeds, the same before and after. What has a result is kept; delete the
file to measure anew. Settings were tried on cat, castle, guitar and pistol, none of which is here.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy import stats

import efface
from efface.bundled.judge import EmojiJudge
from efface.bundled.vocabulary import HELD_OUT, NOUNS, STYLES, TEMPLATES, concept, prompt
from efface.bundled.wordings import EVALUATION_PLAIN, EVALUATION_STYLED
from efface.contracts import Sample
from efface.deltas.delta import Delta
from efface.errors import NothingChanged
from efface.evaluation.debias import Debias
from efface.evaluation.tallies import Tally, tally
from efface.files import write_atomically
from efface.metrics.estimates import wilson
from efface.text.balancing import distance

RESULTS = Path(__file__).parent / "results" / "debias.json"
MEASURED = ("apple", "crown", "frog", "rocket", "umbrella", "pizza")
PICTURES = 256
"""Drawn before, and as many after, to measure shares."""
FIRST_SEED = 7000
WORDINGS = (*EVALUATION_PLAIN, *TEMPLATES["held_out_without_style"])


def settings() -> dict[str, Any]:
    """The bundled model's preset, over all of its styles."""
    return asdict(Debias.presets()["emoji"]) | {"attributes": tuple(STYLES)}


class Bench:
    """The model and the judge that all nouns share."""

    def __init__(self) -> None:
        self.pipe, self.judge = efface.load("emoji"), EmojiJudge()
        self.pipe.set_progress_bar_config(disable=True)
        self.method = Debias(**settings())

    def row(self, noun: str) -> dict[str, Any]:
        """Debiases one noun and measures both sides."""
        row: dict[str, Any] = {"before": self.measured(noun, None)}
        try:
            result = efface.debias(self.pipe, noun, self.method, self.judge)
        except NothingChanged as error:
            return row | {"failed": str(error)}
        told = result.diagnostics
        return row | {
            "after": self.measured(noun, result.delta),
            "curves": {name: list(curve) for name, curve in result.curves.items()},
            "taken": told["taken"],
            "weights": told["weights"][told["taken"]],
            "reached": told["reached"],
            "seconds": result.seconds,
        }

    def measured(self, noun: str, delta: Delta | None) -> dict[str, Any]:
        """Draws the noun without a style, in every style it was taught in, and other nouns."""
        plain = [
            Sample(
                prompt(WORDINGS[n % len(WORDINGS)], noun), FIRST_SEED + n, "general", concept(noun)
            )
            for n in range(PICTURES)
        ]
        taught = [style for style in STYLES if (noun, style) not in HELD_OUT]
        with nullcontext() if delta is None else delta.apply(self.pipe):
            found = self.drawn(plain)
            asked = [self.drawn(styled(noun, style)) for style in taught]
            others = [self.drawn(plainly(other)) for other in NOUNS[noun].neighbours[:4]]
        hits = sum(
            one.attributes[list(STYLES).index(style)]
            for style, one in zip(taught, asked, strict=True)
        )
        return {
            "distance": distance(self.method.wanted(), found.shares()),
            "shares": {
                name: rate(hit, PICTURES)
                for name, hit in zip(STYLES, found.attributes, strict=True)
            },
            "present": rate(found.present or 0, PICTURES),
            "style asked for": rate(hits, sum(one.pictures for one in asked)),
            "neighbours present": rate(
                sum(one.present or 0 for one in others), sum(one.pictures for one in others)
            ),
        }

    def drawn(self, samples: list[Sample]) -> Tally:
        """Counts in pictures of one noun."""
        return tally(
            self.pipe,
            samples,
            self.judge,
            self.method.concepts(),
            steps=self.method.steps,
            guidance=self.method.guidance,
        )


def styled(noun: str, style: str) -> list[Sample]:
    """Eight pictures that ask for a style, in wordings that nothing kept has."""
    texts = [prompt(text, noun, style=STYLES[style].wording) for text in EVALUATION_STYLED]
    return [
        Sample(texts[n % len(texts)], FIRST_SEED + n, "general", concept(noun)) for n in range(8)
    ]


def plainly(noun: str) -> list[Sample]:
    """Sixteen pictures of another noun without a style."""
    texts = [prompt(text, noun) for text in WORDINGS]
    return [
        Sample(texts[n % len(texts)], FIRST_SEED + n, "general", concept(noun)) for n in range(16)
    ]


def rate(hits: int, count: int) -> dict[str, float]:
    """A share with Wilson's interval."""
    low, high = wilson(hits / count, count)
    return {"value": hits / count, "low": low, "high": high, "hits": hits, "count": count}


def chance_distance(count: int, attributes: int) -> float:
    """The distance that chance alone gives on average where every attribute is equally likely.

    The mean absolute deviation of a binomial share, times half the number of attributes.
    """
    share = 1 / attributes
    hits = stats.binom(count, share)
    apart = sum(abs(n / count - share) * hits.pmf(n) for n in range(count + 1))
    return float(attributes * apart / 2)


def run() -> None:
    """Measures what the result file does not hold yet."""
    record: dict[str, Any] = {
        "command": "python -m benchmarks debias",
        "settings": settings(),
        "pictures": PICTURES,
        "chance distance": chance_distance(PICTURES, len(STYLES)),
        "nouns": {},
    }
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text("utf-8"))
    missing = [noun for noun in MEASURED if noun not in record["nouns"]]
    if not missing:
        return
    torch.set_num_threads(1)
    bench = Bench()
    for noun in missing:
        record["nouns"][noun] = row = bench.row(noun)
        write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())
        sides = [row[side] for side in ("before", "after") if side in row]
        print(f"{noun:10}", row.get("failed", ""), *(told(side) for side in sides), flush=True)


def told(side: dict[str, Any]) -> str:
    """One side in a few words."""
    rates = ("present", "style asked for", "neighbours present")
    listed = ", ".join(f"{name} {side[name]['value']:.2f}" for name in rates)
    return f"[distance {side['distance']:.3f}, {listed}]"
