"""Tables of docs/recognisers.md and docs/hardest.md: baselines, ensembles, hardest pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from readme_tables import between, table

__all__ = ["hardest", "recognisers"]

REQUESTS = ("icons-vit", "fashion-vit", "fashion-resnet")
"""Models of whose first request all methods have a row."""
OURS = {"gs_lora": "`gs_lora`", "gs_lora_plus": "GS-LoRA++"}
SETS = ("hardest, crossfit", "hardest, worst_case", "easiest, crossfit")


def recognisers(path: Path, results: Path) -> str:
    """Gives docs/recognisers.md with its tables renewed."""
    page = between(path.read_text("utf-8"), "chains", _chains(results))
    page = between(page, "baselines", _baselines(results))
    file = results / "ensembles.json"
    rows = json.loads(file.read_text("utf-8"))["rows"] if file.exists() else {}
    found = {name: row for name, row in rows.items() if "failed" not in row}
    failed = [f"`{name}`: {row['failed']}" for name, row in rows.items() if "failed" in row]
    text = table(
        ["method", "forgotten", "kept", "held out", "gap ↓", "KLoM, forgotten ↓", "held out ↓",
         "told apart ↓", "spread: training, unlearning, evaluation"],
        [_ensemble(name, row) for name, row in found.items()],
    )  # fmt: skip
    return between(page, "ensembles", "\n\n".join([text, *failed]))


def _chains(results: Path) -> str:
    """Gives the worst of four requests in turn, of every model and way of asking."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in ("forgetting", "fashion"):
        for row in json.loads((results / f"{name}.json").read_text("utf-8"))["chains"]:
            if "kept" in row:
                found.setdefault((row["model"], row["method"]), []).append(row)
    lines = [[model, _method(name), *_worst(rows)] for (model, name), rows in found.items()]
    head = ["erased ↓", "earlier ↓", "kept lost ↓", "parameters", "unseen classes, 4th request"]
    return table(["model", "method", *head], sorted(lines, key=lambda line: line[0], reverse=True))


def _method(name: str) -> str:
    """Says what a chain's method is called on the page."""
    plus = "GS-LoRA++" if name.startswith("gs_lora_plus") else "`gs_lora`"
    rest = name.removeprefix("gs_lora_plus").removeprefix("gs_lora").strip()
    for short, said in (("few", "4 pictures a class"), ("missing", "5 classes without pictures")):
        rest = rest.replace(short, said)
    return f"{plus}, {rest}" if rest else plus


def _worst(rows: list[dict[str, Any]]) -> list[str]:
    worst = {
        role: max((row[role] for row in rows if role in row), key=lambda told: told[1] / told[2])
        for role in ("erased", "earlier")
    }
    lost = max((row["kept"][0] - row["kept"][1]) / row["kept"][2] for row in rows)
    unseen = rows[-1].get("missing")
    return [
        *(f"{after} of {count}" for _, after, count in worst.values()),
        f"{100 * lost:.1f}",
        f"{100 * max(row['parameters'] for row in rows):.1f} %",
        f"{unseen[1]} of {unseen[2]}, {unseen[0]} before" if unseen else "",
    ]


def _baselines(results: Path) -> str:
    """Gives what every method did to one request, and how far that is from retraining."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for name in ("forgetting", "fashion"):
        told = json.loads((results / f"{name}.json").read_text("utf-8"))
        alone = [row for row in told["chains"] if row["request"] == 1 and row["method"] in OURS]
        for row in (*told["baselines"], *alone):
            if row["model"] in REQUESTS:
                rows.setdefault(row["model"], {})[row["method"]] = row
    lines = [
        [OURS.get(method, f"`{method}`")]
        + [cell for own in rows.values() for cell in _beside(own, method)]
        for method in dict.fromkeys(method for own in rows.values() for method in own)
    ]
    columns = ("erased ↓", "kept lost ↓", "gap ↓")
    head = [f"{model}: {columns[0]}" for model in rows]
    spread = [title for first in head for title in (first, *columns[1:])]
    return table(["method", *spread], lines)


def _beside(rows: dict[str, dict[str, Any]], method: str) -> list[str]:
    """Gives a method's cells of one model: pictures, points of what is kept, and of the gap."""
    row = rows.get(method)
    if row is None:
        return ["-"] * 3
    if "failed" in row:
        return ["failed"] * 3
    _, after, count = row["erased"]
    before, kept, pictures = row["kept"]
    gaps = [
        abs(row[role][1] / row[role][2] - rows["retrain"][role][1] / rows["retrain"][role][2])
        for role in ("erased", "kept")
    ]
    return [
        f"{after} of {count}",
        f"{100 * (before - kept) / pictures:.1f}",
        f"{100 * sum(gaps) / len(gaps):.1f}",
    ]


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
