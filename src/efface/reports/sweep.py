"""A sweep's rows for people: one line for each method with its settings."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from efface.evaluation.sweeps import Row

__all__ = ["sweep_markdown", "sweep_table"]

HEAD = ("method", "jobs", "erased", "synonyms", "neighbours", "kept", "seconds", "no result")
_ROLES = ("erased", "synonym", "neighbour", "kept")


def sweep_table(rows: Sequence[Row]) -> RenderableType:
    """Renders hits before and after of all pictures, over concepts and seeds; print it with rich.

    Args:
        rows: of all jobs.
    """
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    for name in HEAD:
        first = name == HEAD[0]
        table.add_column(name, justify="left" if first else "right", no_wrap=not first)
    for line in _lines(rows):
        table.add_row(*line)
    return table


def sweep_markdown(rows: Sequence[Row]) -> str:
    """Writes the same as a Markdown table.

    Args:
        rows: of all jobs.
    """
    head, rule = " | ".join(HEAD), "|".join([" --- "] * len(HEAD))
    body = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in _lines(rows)]
    note = "Hits before → after of pictures, over all concepts and seeds; seconds of an erasure."
    return "\n".join([f"| {head} |", f"|{rule}|", *body, "", note, ""])


def _lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    for label in dict.fromkeys(row.label for row in rows):
        own = [row for row in rows if row.label == label]
        done = [row for row in own if row.state == "done"]
        seconds = f"{statistics.median(row.seconds for row in done):.1f}" if done else "-"
        left = len(own) - len(done)
        invalid = sum(row.verdict == "invalid" for row in done)
        told = [str(left)] if left or not invalid else []
        told += [f"{invalid} invalid"] if invalid else []
        cells = [_cell(done, role) for role in _ROLES]
        yield [label, str(len(own)), *cells, seconds, ", ".join(told)]


def _cell(rows: Sequence[Row], role: str) -> str:
    """Adds up hits; a dash where nothing was counted."""
    counted = [row.rates[role] for row in rows if role in row.rates]
    if not counted:
        return "-"
    before, after, count = (sum(each[place] for each in counted) for place in range(3))
    return f"{before} → {after}/{count}"
