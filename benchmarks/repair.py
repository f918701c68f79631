"""Does A-STAR bring back kept things that an erasure took, and do erased ones come with them?

    python -m benchmarks repair     writes benchmarks/results/repair.json

On emoji-scenes, after erasures of 25 nouns at once that cost the other nouns most: pictures of two
kept things, and of a kept thing beside an erased one, on the unedited model, on the edited one, and
on the edited one with A-STAR, which is told the kept things alone. Each row says how often all kept
things are there, and how often the erased one is; changes by A-STAR are paired by prompt and seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import efface
from benchmarks.composition import TUNED, Bench, Wanted, Way, outcomes
from benchmarks.mass import CANDIDATES, ORDER, SWEPT
from efface.bundled import understood
from efface.bundled.scene_wordings import together
from efface.bundled.vocabulary import NOUNS
from efface.files import write_atomically
from efface.metrics.estimates import compare_rates, rate
from efface.registry import build

__all__ = ["run"]

RESULTS = Path(__file__).parent / "results" / "repair.json"
ERASURES = ("uce", "rece", "realera")
"""Each with the first of its settings that `benchmarks.mass` tries: these hold the others least."""
PROMPTS, SEEDS = 24, 2


def asked(gone: Sequence[str], left: Sequence[str]) -> dict[str, list[tuple[Wanted, str | None]]]:
    """Lists prompts by kind: what must be there, and what must not."""
    count = len(left)
    kept = [(left[n % count], left[(5 * n + 7) % count]) for n in range(2 * PROMPTS)]
    apart = [pair for pair in kept if len({*pair}) == 2][:PROMPTS]
    company = [(left[(5 * n) % count], gone[n % len(gone)]) for n in range(PROMPTS)]
    return {
        "two kept": [(Wanted(together(pair), pair), None) for pair in apart],
        "kept and erased": [(Wanted(together(pair), pair[:1]), pair[1]) for pair in (company)],
    }


def measured(
    bench: Bench, way: Way, wanted: Sequence[tuple[Wanted, str | None]]
) -> dict[str, list[float]]:
    """Draws, and says of each picture whether what must be there is, and what must not."""
    seen = bench.seen(bench.drawn(way, [each for each, _ in wanted], SEEDS))
    gone = [noun for _, noun in wanted for _ in range(SEEDS)]
    return {
        "kept": [each["all"] for each in outcomes([one for one, _ in wanted], seen)],
        "erased": [float(noun in found) for noun, found in zip(gone, seen, strict=True) if noun],
    }


def run() -> None:
    """Measures what the result file does not hold yet."""
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    bench = Bench("emoji-scenes")
    gone = ORDER[:SWEPT]
    kinds = asked(gone, [noun for noun in NOUNS if noun not in gone])
    request = understood(efface.request(gone))
    plain, steered = Way("plain"), Way("a_star", "a_star", TUNED["emoji-scenes"]["a_star"])
    for method in ERASURES:
        if any(row["method"] == method for row in rows):
            continue
        settings = CANDIDATES[method][0]
        delta = efface.erase(bench.pipe, request, method=build("methods", method, **settings)).delta
        for kind, wanted in kinds.items():
            prompts = [each.prompt for each, _ in wanted for _ in range(SEEDS)]
            found = {"before": measured(bench, plain, wanted)}
            with delta.apply(bench.pipe):
                found["after"] = measured(bench, plain, wanted)
                found["after, A-STAR"] = measured(bench, steered, wanted)
            row: dict[str, Any] = {"method": method, "settings": settings, "prompts_of": kind}
            for side in ("kept", "erased"):
                if not found["before"][side]:
                    continue
                row[side] = {name: _rate(each[side], prompts) for name, each in found.items()}
                row[side]["by A-STAR"] = _change(
                    found["after"][side], found["after, A-STAR"][side], prompts
                )
            rows.append(row)
            print(json.dumps(row), flush=True)
        text = json.dumps(rows, indent=1) + "\n"
        write_atomically(RESULTS, text.encode())


def _rate(hits: list[float], prompts: list[str]) -> dict[str, Any]:
    found = rate(hits, prompts)
    return {
        "hits": int(sum(hits)),
        "count": len(hits),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
    }


def _change(before: list[float], after: list[float], prompts: list[str]) -> dict[str, Any]:
    found = compare_rates(before, after, prompts)
    return {
        "value": round(found.difference.value, 4),
        "low": round(found.difference.low, 4),
        "high": round(found.difference.high, 4),
        "gained": found.gained,
        "lost": found.lost,
    }
