"""Chooses the bundled model's presets: every candidate erases the tuning concepts, one at a time.

    python -m benchmarks presets            writes benchmarks/results/presets/<method>.json
    python -m benchmarks presets esd spm    those of some methods

Presence of the erased concept and its synonyms (lower is better) and of kept nouns and styles
(higher is better) is added up over the tuning concepts; results are reported on other concepts. The
rule: of the candidates that lose at most five points of kept nouns and three of kept styles, the
one that uses least of its limits up, which is what it leaves as a share of a tenth, plus what it
loses of each kind as a share of what it may lose. Of the best that tie those with the fewest steps
are left, and if they are several, their nouns are erased with a second seed, which decides.
Methods that train are tuned on the nouns among the concepts; a candidate that qualifies there, and
leaves at most a tenth, erases two styles too, into another style, and all parts are added up.
Second stages follow their first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import efface
from benchmarks.candidates import AFTER, TRAINED
from benchmarks.concepts import STYLE_ANCHOR, TUNING, TUNING_STYLES
from benchmarks.erasure import Bench
from efface.bundled import understood
from efface.bundled.suites import emoji_suite
from efface.bundled.vocabulary import NOUNS
from efface.contracts import Suite
from efface.errors import MeasurementFailed
from efface.evaluation.record import Evaluation
from efface.files import write_atomically
from efface.registry import build

RESULTS = Path(__file__).parent / "results" / "presets"
ALLOWED = {"kept": 0.05, "kept style": 0.03}
"""How much of kept nouns and of kept styles a preset may lose."""
LEFT = 0.1
"""What may be left; a candidate of a method that trains is tried on styles if it leaves no more of
the nouns."""
AGAIN = "second seed"
"""Where a row holds what was measured of its nouns with a second seed, to decide a tie."""
WITHOUT = {"target": "prompt_without_concept", "weighting": "mean"}

RECE_OURS = WITHOUT | {"rows": "erased", "strength_unit": "relative", "strength": 0.1}
RECE_OURS |= {"ridge": 1e-3, "first_ridge": 1e-3}

CANDIDATES: dict[str, tuple[dict[str, Any], ...]] = {
    "uce": (
        {},
        *(WITHOUT | {"keep_scale": keep, "ridge": 1e-3} for keep in (0.3, 1.0, 3.0, 10.0)),
    ),
    "rece": (
        {},
        RECE_OURS | {"rounds": 1, "first_keep_scale": 10.0, "keep_scale": 10.0},
        RECE_OURS | {"rounds": 1, "first_keep_scale": 10.0, "keep_scale": 10.0, "hold": 1.0},
        RECE_OURS | {"rounds": 2, "first_keep_scale": 10.0, "keep_scale": 10.0, "hold": 10.0},
    ),
    "trce": (
        {},
        *(
            {"concept_weight": 1.0, "padding_weight": 1.0, "keep_weight": keep}
            for keep in (1.0, 3.0, 10.0)
        ),
    ),
    "realera": (
        {},
        *(
            {"target": "prompt_without_concept", "ridge": 1e-3, "keep_weight": keep}
            | {"near_weight": near}
            for keep, near in ((3.0, 0.5), (10.0, 0.1), (10.0, 0.5))
        ),
        {"target": "prompt_without_concept", "ridge": 1e-3, "keep_weight": 10.0}
        | {"neighbours": "moments", "near_weight": 0.01, "beyond_weight": 0.1},
    ),
}


@dataclass
class Tally:
    """Hits and counts, added up over concepts."""

    hits: int = 0
    count: int = 0

    def add(self, found: Evaluation, metric: str, role: str, *, after: bool) -> None:
        """Adds one measurement, if it was made."""
        one = found.find(metric, role)  # type: ignore[arg-type]
        estimate = None if one is None else (one.after if after else one.before)
        if estimate is not None and estimate.hits is not None:
            self.hits += estimate.hits
            self.count += estimate.count

    @property
    def rate(self) -> float:
        """Share of hits; NaN without any count."""
        return self.hits / self.count if self.count else float("nan")


COLUMNS = {
    "erased": ("presence", "erased"),
    "synonym": ("presence", "synonym"),
    "neighbour": ("presence", "neighbour"),
    "kept": ("presence", "kept"),
    "kept style": ("style_presence", "kept"),
}


class Tuner(Bench):
    """Measures candidates."""

    def score(
        self,
        method: str,
        settings: dict[str, Any],
        concepts: Sequence[str | list[str]],
        *,
        anchor: str | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Erases every tuning concept, or several at once, and adds up what was measured."""
        before = {name: Tally() for name in COLUMNS}
        after = {name: Tally() for name in COLUMNS}
        failures = []
        evaluations, seconds = [], []
        for concept in concepts:
            request = understood(efface.request(concept, anchor=anchor))
            stages = [build("methods", method, **settings)]
            if method in AFTER:
                stages.insert(0, build("methods", AFTER[method], preset="emoji"))
            try:
                result = efface.erase(self.pipe, request, method=stages, seed=seed)
            except MeasurementFailed as error:
                failures.append(f"{concept}: {error}")
                continue
            evaluations.append(result.diagnostics.get("network_evaluations", 0))
            seconds.append(result.seconds)
            found = self.measured(result.delta, suite(request))
            if found.verdict == "invalid":
                failures.append(f"{concept}: {'; '.join(found.reasons)}")
            for name, (metric, role) in COLUMNS.items():
                before[name].add(found, metric, role, after=False)
                after[name].add(found, metric, role, after=True)
        rates = {
            side: {name: asdict(tally) | {"rate": tally.rate} for name, tally in tallies.items()}
            for side, tallies in (("before", before), ("after", after))
        }
        cost = {"network_evaluations": max(evaluations, default=0), "seconds": seconds}
        return {"settings": settings, "failures": failures, "cost": cost, **rates}


def suite(request: efface.ErasureRequest) -> Suite:
    """The small suite, with presence alone."""
    small = emoji_suite(request, size="sweep")
    return replace(small, image_metrics=("presence", "style_presence"), set_metrics=())


def styles(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Gives what was measured on each style that a candidate was tried on."""
    return list(row.get("styles", {}).values())


def hits(row: dict[str, Any], side: str, *names: str) -> float:
    """Gives the share of hits among those cells, over nouns and the styles that were tried."""
    cells = [part[side][name] for part in (row, *styles(row)) for name in names]
    return float(sum(cell["hits"] for cell in cells) / sum(cell["count"] for cell in cells))


def lost(row: dict[str, Any], name: str) -> float:
    """Gives how much less there is of what should stay."""
    return hits(row, "before", name) - hits(row, "after", name)


def left(row: dict[str, Any]) -> float:
    """Gives how much there still is of what should be gone."""
    return hits(row, "after", "erased", "synonym")


def allowed(row: dict[str, Any]) -> bool:
    """Says whether a candidate loses too little to matter, and always made an edit."""
    failed = any(part["failures"] for part in (row, *styles(row)))
    return not failed and all(lost(row, name) <= ALLOWED[name] for name in ALLOWED)


def used(row: dict[str, Any]) -> float:
    """Gives how much of its limits a candidate uses up: 1 for each that it reaches."""
    return left(row) / LEFT + sum(lost(row, name) / most for name, most in ALLOWED.items())


def chosen(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Applies the rule of this module's docstring; None when no candidate qualifies."""
    best = leading(rows)
    return min(best, key=lambda row: used(row.get(AGAIN, row)), default=None)


def leading(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gives the candidates that use least up in the fewest steps: one, or several that tie."""
    tried = [row for row in rows if "styles" in row]
    ready = [*filter(allowed, tried or rows)]
    ranks = [(used(row), row["settings"].get("steps", 0)) for row in ready]
    return [row for row, rank in zip(ready, ranks, strict=True) if rank == min(ranks)]


def run(methods: Sequence[str] = ()) -> None:
    """Measures every candidate that has no result yet, and says which one is chosen.

    Pools that candidates have in common are made once; what they took is counted every time.
    """
    bench = Tuner()
    every = CANDIDATES | TRAINED
    for method in methods or every:
        _choose(bench, method, every[method])


def _choose(bench: Tuner, method: str, candidates: tuple[dict[str, Any], ...]) -> None:
    trains = method in TRAINED
    concepts = [one for one in TUNING if not trains or one in NOUNS]
    path = RESULTS / f"{method}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    known = {json.dumps(row["settings"], sort_keys=True): row for row in rows}
    for settings in candidates:
        row = known.get(json.dumps(settings, sort_keys=True))
        if row is not None and not (trains and _untried(row)):
            continue
        if row is None:
            rows.append(row := bench.score(method, settings, concepts))
        for style in _untried(row) if trains else ():
            part = _part(bench.score(method, settings, [style], anchor=STYLE_ANCHOR))
            row.setdefault("styles", {})[style] = part
        told = {name: round(hits(row, "after", name), 3) for name in ("erased", "synonym", "kept")}
        print(method, settings, told, row["failures"], flush=True)
        _write(path, concepts, rows)
    tied = leading(rows)
    if len(tied) > 1 and not all(AGAIN in row for row in tied):
        for row in tied:
            row[AGAIN] = _part(bench.score(method, row["settings"], concepts, seed=1))
        _write(path, concepts, rows)


def _write(path: Path, concepts: Sequence[str], rows: list[dict[str, Any]]) -> None:
    best = chosen(rows)
    record = {
        "command": "python -m benchmarks presets",
        "concepts": concepts,
        "allowed_loss": ALLOWED,
        "rows": rows,
        "chosen": best["settings"] if best else None,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    print(f"{path.stem}: chosen {record['chosen']}", flush=True)


def _part(row: dict[str, Any]) -> dict[str, Any]:
    return {name: cell for name, cell in row.items() if name != "settings"}


def _untried(row: dict[str, Any]) -> list[str]:
    """Gives the styles that a candidate is to be tried on still, if its nouns allow it."""
    nouns = {name: cell for name, cell in row.items() if name != "styles"}
    if not allowed(nouns) or left(nouns) > LEFT:
        return []
    return [style for style in TUNING_STYLES if style not in row.get("styles", {})]
