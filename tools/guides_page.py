"""Parts of docs/guides.md: settings of every guide, what they guard, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy.stats import fisher_exact

from attack_page import section
from efface import registry
from readme_tables import between, table

__all__ = ["page"]

MODELS = {
    "": "unedited",
    "uce": "erased by uce",
    "uce at half": "erased by uce, scale 0.5",
    "esd": "erased by esd",
}


def page(path: Path, results: Path) -> str:
    """Gives docs/guides.md with its tables renewed."""
    text = between(path.read_text("utf-8"), "guards", _guards(results / "guards.json"))
    text = between(text, "guide cost", _costs(results / "guide_cost.json"))
    text = between(text, "composition", _composition(results / "composition.json"))
    return between(text, "settings", _settings())


def _settings() -> str:
    entries = registry.entries("guides")
    found = {entry.name: registry.load("guides", entry.name) for entry in entries}
    return "\n".join(
        section(entry, found[entry.name]).replace("\nDiffers from", "\n\nDiffers from")
        + f"\nFamilies: {', '.join(sorted(found[entry.name].families))}."
        + _presets(found[entry.name])
        + "\n"
        for entry in entries
    ).strip()


def _presets(guide: Any) -> str:
    names = ", ".join(f"`{name}`" for name in guide.presets())
    return f" Presets: {names}." if names else ""


def _guards(file: Path) -> str:
    if not file.exists():
        return "Not measured yet."
    rows = json.loads(file.read_text("utf-8"))["rows"]
    rows.sort(key=lambda row: (row["model"], list(MODELS).index(row["erased_by"])))
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(str(row[name]) for name in ("model", "erased_by", "guard", "branch"))
        alike.setdefault(key, []).append(row)
    cells = [
        [
            model,
            MODELS[method],
            guard if guard != "none" else "no guard",
            branch or "-",
            _count(own, "erased" if "erased shown" in own[0] else "paraphrase"),
            _count(own, "kept"),
            f"{sum(row['kept moved'] for row in own) / len(own):.3f}",
        ]
        for (model, method, guard, branch), own in alike.items()
    ]
    head = ["model", "", "guard", "avoided text predicted by", "shown ↓"]
    shown = table([*head, "kept ↑", "kept moved ↓"], cells)
    return f"{shown}\n\n{_branches(alike)}"


def _branches(alike: Mapping[tuple[str, ...], list[dict[str, Any]]]) -> str:
    """Compares who predicts the avoided text, where half an erasure leaves something to avoid."""
    told = []
    for guard in dict.fromkeys(key[2] for key in alike):
        keys = [("emoji", "uce at half", guard, branch) for branch in ("edited", "unedited")]
        if all(key in alike for key in keys):
            each = [list(map(int, _count(alike[key], "erased").split(" of "))) for key in keys]
            chance = fisher_exact([[hits, count - hits] for hits, count in each]).pvalue
            told.append(f"`{guard}` {each[0][0]} and {each[1][0]} ({chance:.2g})")
    return (
        "Shown on `emoji` erased by uce at scale 0.5, with what is to be avoided predicted by the "
        f"edited model and by the base, and the p-value of Fisher's exact test: {', '.join(told)}."
    )


def _count(rows: list[dict[str, Any]], role: str) -> str:
    """Adds up over concepts."""
    each = [row[f"{role} shown"].split(" of ") for row in rows]
    return " of ".join(str(sum(map(int, part))) for part in zip(*each, strict=True))


def _costs(file: Path) -> str:
    if not file.exists():
        return "Not measured yet."
    rows = json.loads(file.read_text("utf-8"))["rows"]
    theirs = {row["guide"]: row for row in rows if row["by"] == "diffusers"}
    cells = [
        [
            row["guide"],
            f"{row['evaluations']:g}",
            f"{row['seconds']:.2f}",
            *_other(theirs.get(row["guide"])),
        ]
        for row in rows
        if row["by"] == "efface"
    ]
    head = ["guide", "evaluations a picture", "seconds", "diffusers: evaluations", "seconds"]
    return table(head, cells)


def _other(row: dict[str, Any] | None) -> list[str]:
    return ["-", "-"] if row is None else [f"{row['evaluations']:g}", f"{row['seconds']:.2f}"]


KINDS = {
    "pairs": "two, never together in training",
    "seen": "two, together in training",
    "triples": "three, never together in training",
}


def _composition(file: Path) -> str:
    if not file.exists():
        return "Not measured yet."
    rows = json.loads(file.read_text("utf-8"))
    cells = [
        [
            row["model"],
            KINDS[row["prompts_of"]],
            row["way"],
            f"{row['all_present']['hits']} of {row['pictures']}",
            _points(row.get("against_plain")),
            f"{row['fit']['value']:.2f}",
            f"{row['evaluations']:g}",
            f"{row['operations_of_plain']:.2f}",
            f"{row['seconds']:.2f}",
        ]
        for row in rows
        if row["purpose"] == "measured"
    ]
    head = ["model", "things", "way", "all there ↑", "points against plain", "fit ↑"]
    return table([*head, "evaluations", "operations", "seconds"], cells)


def _points(change: dict[str, float] | None) -> str:
    if change is None:
        return "-"
    value, low, high = (100 * change[key] for key in ("value", "low", "high"))
    return f"{value:+.0f} ({low:+.0f} to {high:+.0f})"
