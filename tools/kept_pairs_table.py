"""The table of docs/many.md: what closed forms do to two kept things in one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from readme_tables import between, table

ROLES = {"erased": "erased ↓", "kept": "kept", "composition": "pairs"}


def page(path: Path, results: Path) -> str:
    """Gives docs/many.md with its table renewed."""
    text = path.read_text("utf-8")
    file = results / "kept_pairs.json"
    return between(text, "pairs", _table(file) if file.exists() else "")


def _table(file: Path) -> str:
    found = json.loads(file.read_text("utf-8"))["rows"]
    keeping = {_key(row): row for row in found if row["pairs"]}
    rows = [
        [
            row["erased"],
            row["method"],
            *(_cell(row, keeping.get(_key(row)), role) for role in ROLES),
        ]
        for row in found
        if not row["pairs"]
    ]
    return table(["concepts", "method", *ROLES.values()], rows)


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["method"], row["erased"]


def _cell(row: dict[str, Any], keeping: dict[str, Any] | None, role: str) -> str:
    before, count = row["before"][role]
    other = "-" if keeping is None else keeping["after"][role][0]
    return f"{before} → {row['after'][role][0]} / {other} of {count}"
