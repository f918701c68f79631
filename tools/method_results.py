"""Results on methods' own pages beside the usual ones: of recognisers, encoders, hardening."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from efface.metrics.estimates import wilson
from readme_tables import table

__all__ = ["elsewhere"]

Row: TypeAlias = Mapping[str, Any]

FIRST = """The first of four requests, of 8 of 64 classes on `icons-vit` and of 2 of 10 on a small
ViT of Fashion-MNIST: held-out pictures that still get their name, before → after in per cent with
the 95 % interval of the latter; how far both are from retraining without these classes, in points
on average; and processor seconds (`python -m benchmarks forgetting`, `fashion`;
[what it means](../recognisers.md))."""
CHAINS = """Four requests in turn, each the worst of the four: pictures of what goes that still get
their name, of what went earlier, and the largest loss of what is kept in points
(`python -m benchmarks forgetting`, `fashion`)."""
ENCODERS = """Attacked after erasing one noun (`python -m benchmarks advunlearn`): pictures by name,
by synonym and kept ones in which the judge sees what is asked for, and trials in which a one-token
soft prompt and a prefix bring the noun back."""
HARDENED = """Steps until an attacker who trains low-rank layers on pictures of the concept has half
of it back, for three step sizes, after the erasure and after hardening it as well (`python -m
benchmarks harden`); kept pictures that show what they should."""
WORDS = {"few": "4 pictures a class", "missing": "5 classes without pictures"}
"""What settings of chains are called on pages."""


def elsewhere(name: str, results: Path) -> str:
    """Gives what a method's page shows of results beside those of the usual experiments."""
    parts = [_first(name, results), _chains(name, results)]
    parts += {"advunlearn": [_encoders(results)], "harden": [_hardened(results)]}.get(name, [])
    return "\n\n".join(part for part in parts if part)


def _read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def _first(name: str, results: Path) -> str:
    rows = []
    for file in ("forgetting", "fashion"):
        found = _read(results / f"{file}.json").get("baselines", [])
        reference = next((row for row in found if row["method"] == "retrain"), None)
        own = [row for row in found if row["method"].split(" ")[0] == name]
        for row in own:
            if "failed" in row:
                rows.append([row["model"], f"refused: {row['failed']}", "-", "-", "-"])
                continue
            setting = row["method"].removeprefix(name).strip(" -")
            named = f"{row['model']}, {setting}" if setting else row["model"]
            gap = "-" if row is reference or reference is None else f"{_gap(row, reference):.1f}"
            cells = [_rate(row["erased"]), _rate(row["kept"]), gap]
            rows.append([named, *cells, f"{row['processor_seconds']:.0f}"])
    head = ["model", "erased ↓", "kept", "from retraining ↓", "seconds"]
    return f"{FIRST}\n\n{table(head, rows)}" if rows else ""


def _gap(row: Row, reference: Row) -> float:
    roles = ("erased", "kept")
    return sum(abs(_share(row[role]) - _share(reference[role])) for role in roles) / len(roles)


def _share(counts: Sequence[int]) -> float:
    return 100 * counts[1] / counts[2]


def _rate(counts: Sequence[int]) -> str:
    before, after, count = counts
    low, high = (100 * side for side in wilson(after / count, count))
    return f"{100 * before / count:.1f} → {100 * after / count:.1f} [{low:.1f}, {high:.1f}]"


def _chains(name: str, results: Path) -> str:
    """Shows chains of requests, without those in which one was taken out."""
    chains: dict[tuple[str, str], list[Row]] = {}
    for file in ("forgetting", "fashion"):
        for row in _read(results / f"{file}.json").get("chains", []):
            whole = "kept" in row and row["method"].split(" ")[0].removesuffix("_plus") == name
            if whole:
                chains.setdefault((row["model"], row["method"]), []).append(row)
    rows = [
        [model, _told(method), _worst(own, "erased"), _worst(own, "earlier"), _most_lost(own)]
        for (model, method), own in chains.items()
    ]
    head = ["model", "settings", "erased ↓", "earlier ↓", "points lost ↓"]
    return f"{CHAINS}\n\n{table(head, rows)}" if rows else ""


def _told(method: str) -> str:
    first, _, rest = method.partition(" ")
    form = "with prototypes" if first.endswith("_plus") else "plain"
    spelled = [WORDS.get(each, each) for each in rest.split(", ") if each]
    return ", ".join([form, *spelled])


def _worst(rows: Sequence[Row], role: str) -> str:
    found = [row[role] for row in rows if role in row]
    if not found:
        return "-"
    _, after, count = max(found, key=lambda counts: counts[1] / counts[2])
    return f"{after} of {count}"


def _most_lost(rows: Sequence[Row]) -> str:
    lost = [100 * (row["kept"][0] - row["kept"][1]) / row["kept"][2] for row in rows]
    return f"{max(lost):.1f}"


def _encoders(results: Path) -> str:
    rows = [
        [
            f"{row['method']}, {row['concept']}",
            *(_of(row.get(role)) for role in ("erased", "synonym", "kept")),
            *(_trials(row.get(attack)) for attack in ("soft_prompt", "prefix")),
            f"{row['evaluations']:,}" if row.get("evaluations") else "-",
        ]
        for row in _read(results / "advunlearn.json").get("rows", [])
        if row["method"].startswith(("advunlearn", "esd"))
    ]
    head = ["method", "erased ↓", "synonyms ↓", "kept", "soft prompt ↓", "prefix ↓", "evaluations"]
    return f"{ENCODERS}\n\n{table(head, rows)}" if rows else ""


def _of(told: Row | None) -> str:
    return f"{told['hits']} of {told['of']}" if told else "-"


def _trials(told: Row | None) -> str:
    return f"{told['revived']} of {told['trials']}" if told else "-"


def _hardened(results: Path) -> str:
    rows, found = [], _read(results / "harden.json")
    for row in found:
        before, after = row["before"]["half"], row["after"]["half"]
        kept = f"{row['before']['kept']} → {row['after']['kept']} of {row['pictures']['kept']}"
        steps = ", ".join(f"{before[rate]} → {after[rate]}" for rate in before)
        rows.append([row["concept"], row["method"], row["way"], steps, kept])
    sizes = next((", ".join(row["before"]["half"]) for row in found), "")
    head = ["concept", "erased by", "settings", f"steps, for step sizes {sizes} ↑", "kept"]
    return f"{HARDENED}\n\n{table(head, rows)}" if rows else ""
