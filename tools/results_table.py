"""The README's table of results, written from the files under benchmarks/results."""

from __future__ import annotations

from pathlib import Path

START, END = "<!-- results: written by `make docs` -->", "<!-- end of results -->"


def readme(path: Path, results: Path) -> str:
    """Gives the README with the table between the markers replaced."""
    text = path.read_text("utf-8")
    if START not in text:
        return text
    before, rest = text.split(START)
    after = rest.split(END)[1]
    return f"{before}{START}\n\n{table(results)}\n\n{END}{after}"


def table(results: Path) -> str:
    """Gives one row per measured method and kind of concept."""
    return "No results are committed yet: `make bench` measures them."
