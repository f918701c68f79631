"""The README's tables: methods from the registry, results from benchmarks/results."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from efface import registry
from efface.metrics.estimates import wilson

NO_RESULTS = "No results are committed yet: `make bench` measures them."
COLUMNS = (
    ("erased: before", "presence", "erased", "before"),
    ("after", "presence", "erased", "after"),
    ("synonyms: after", "presence", "synonym", "after"),
    ("neighbours: before", "presence", "neighbour", "before"),
    ("after", "presence", "neighbour", "after"),
    ("kept: before", "presence", "kept", "before"),
    ("after", "presence", "kept", "after"),
)


def readme(path: Path, results: Path) -> str:
    """Gives the README with its generated parts renewed."""
    text = path.read_text("utf-8")
    text = _between(text, "methods", methods_table())
    return _between(text, "results", results_table(read(results)))


def methods_table() -> str:
    """Gives one row per method that exists."""
    rows = [
        f"| [`{entry.name}`](docs/methods/{entry.name}.md) | {entry.summary} |"
        for entry in registry.entries("methods")
    ]
    return "\n".join(["| method | what it does |", "| --- | --- |", *rows])


def read(results: Path) -> list[dict[str, Any]]:
    """Reads every committed evaluation."""
    files = sorted(results.rglob("*.json")) if results.is_dir() else []
    found = [json.loads(file.read_text("utf-8")) for file in files]
    return [one for one in found if "measurements" in one]


def results_table(evaluations: Iterable[Mapping[str, Any]]) -> str:
    """Gives one row per method and kind of concept; hits and counts are added up over concepts.

    Only valid evaluations count; how many were not is said in the row.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for one in evaluations:
        groups[one["provenance"]["method"], _kind(one)].append(one)
    if not groups:
        return NO_RESULTS
    names = ["method", "concepts", *(column[0] for column in COLUMNS)]
    rows = [_row(*key, groups[key]) for key in sorted(groups)]
    return "\n".join([_line(names), _line(["---"] * len(names)), *map(_line, rows)])


def _row(method: str, kind: str, found: list[Mapping[str, Any]]) -> list[str]:
    valid = [one for one in found if one["verdict"] == "valid"]
    left_out = f" ({len(found) - len(valid)} not valid)" if len(valid) < len(found) else ""
    cells = [_rate(valid, *column[1:]) for column in COLUMNS]
    return [method, f"{len(valid)} {kind}s{left_out}", *cells]


def _kind(one: Mapping[str, Any]) -> str:
    return str(one["provenance"]["request"]["erasures"][0]["concept"]["kind"])


def _rate(found: list[Mapping[str, Any]], metric: str, role: str, side: str) -> str:
    measured = [
        row[side]
        for one in found
        for row in one["measurements"]
        if (row["metric"], row["role"], row["concept"]) == (metric, role, None) and row[side]
    ]
    count = sum(row["count"] for row in measured)
    if count == 0:
        return "-"
    hits = sum(row["hits"] for row in measured)
    low, high = wilson(hits / count, count)
    return f"{hits / count:.1%} [{low:.1%}, {high:.1%}]"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _between(text: str, name: str, content: str) -> str:
    start, end = f"<!-- {name}: written by `make docs` -->", f"<!-- end of {name} -->"
    before, rest = text.split(start)
    after = rest.split(end)[1]
    return f"{before}{start}\n\n{content}\n\n{end}{after}"
