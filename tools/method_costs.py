"""What methods cost and keep on the bundled model, from committed results, for the studio."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import readme_tables


def page(results: Path) -> str:
    """Gives seconds, shares left and kept by method, over objects erased one at a time."""
    groups: dict[str, list[Any]] = defaultdict(list)
    closed = readme_tables.read(results / "erasure")
    known = {readme_tables._method(one) for one in closed}
    trained = readme_tables.read(results / "training")
    for one in [*closed, *(each for each in trained if readme_tables._method(each) not in known)]:
        single = len(readme_tables._concepts(one)) == 1 and readme_tables._kind(one) == "object"
        if one["verdict"] == "valid" and single:
            groups[readme_tables._method(one)].append(one)
    found = {}
    for method, rows in sorted(groups.items()):
        _, left = readme_tables._added_up(rows, "presence", "erased")
        _, kept = readme_tables._added_up(rows, "presence", "kept")
        seconds = [one["erase_seconds"] for one in rows if "erase_seconds" in one]
        if left[1] and kept[1] and seconds:
            found[method] = {
                "seconds": round(sum(seconds) / len(seconds), 1),
                "left": round(left[0] / left[1], 4),
                "kept": round(kept[0] / kept[1], 4),
            }
    return json.dumps({"methods": found}, indent=1) + "\n"
