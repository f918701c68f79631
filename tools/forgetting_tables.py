"""Tables of docs/recognisers.md and docs/hardest.md that come from results on Fashion-MNIST."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from readme_tables import between, table

__all__ = ["hardest", "recognisers"]

SETS = ("hardest, crossfit", "hardest, worst_case", "easiest, crossfit")


def recognisers(path: Path, results: Path) -> str:
    """Gives docs/recognisers.md with the table of ensembles renewed."""
    file = results / "ensembles.json"
    rows = json.loads(file.read_text("utf-8"))["rows"] if file.exists() else {}
    found = {name: row for name, row in rows.items() if "failed" not in row}
    failed = [f"`{name}`: {row['failed']}" for name, row in rows.items() if "failed" in row]
    text = table(
        ["method", "forgotten", "kept", "held out", "gap ↓", "KLoM, forgotten ↓", "held out ↓",
         "told apart ↓", "spread: training, unlearning, evaluation"],
        [_ensemble(name, row) for name, row in found.items()],
    )  # fmt: skip
    return between(path.read_text("utf-8"), "ensembles", "\n\n".join([text, *failed]))


def hardest(path: Path, results: Path) -> str:
    """Gives docs/hardest.md with the table of pictures renewed."""
    file = results / "hardest" / "pictures.json"
    if not file.exists():
        return between(path.read_text("utf-8"), "hardest pictures", "Not measured yet.")
    summary = json.loads(file.read_text("utf-8"))["summary"]
    names = [name for name in SETS if name in summary]
    methods = list(dict.fromkeys(method for name in names for method in summary[name]))
    lines = []
    for method in methods:
        own = {name: summary[name].get(method) for name in names}
        random = next(each["random"] for each in own.values() if each)
        gaps = [f"{_gap(each)}" for name, each in own.items() if name.startswith("hardest")]
        shown = [f"{100 * each['forgotten']:.1f} %" if each else "-" for each in own.values()]
        lines.append([method, f"{100 * random[0]:.1f} %", *shown, *gaps])
    head = ["method", "random ↓", *(f"{name} ↓" for name in names)]
    head += [f"gap more than random, {name}" for name in names if name.startswith("hardest")]
    return between(path.read_text("utf-8"), "hardest pictures", table(head, lines))


def _gap(told: dict[str, Any] | None) -> str:
    if not told or "gap more than random" not in told:
        return "-"
    value, low, high = (100 * each for each in told["gap more than random"])
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _ensemble(name: str, row: dict[str, Any]) -> list[str]:
    shares = row.get("variance shares", {})
    parts = [f"{100 * share:.0f} %" for share in shares.values()]
    return [
        name if name != "retrain" else "retrain, other seeds",
        *(f"{100 * value:.1f} %" for value in row["accuracy"].values()),
        _interval([100 * value for value in row["average gap"]]),
        _interval(row["klom, forgotten"]),
        _interval(row["klom, test"]),
        f"{row['u_lira auc'][0]:.2f}",
        ", ".join(parts) or "-",
    ]


def _interval(told: list[float]) -> str:
    value, low, high = told
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
