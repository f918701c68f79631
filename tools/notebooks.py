"""Writes a notebook of docs/notebooks anew with what its cells give, at small size.

python tools/notebooks.py docs/notebooks/erase_and_look.ipynb ...     executes and writes
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

__all__ = ["executed", "main", "outputs", "plain"]

ERASES_LINE = "\x1b[2K"
"""What a bar of progress begins with every time that it is drawn anew."""

ERASES_BARS = f"\x1b[1A{ERASES_LINE}"
"""What goes back a line, where what is said begins once bars are done."""


def plain(text: str) -> str:
    """Gives what a terminal shows in the end: without bars of progress and colours."""
    text = text.replace(ERASES_BARS, "")
    lines = [line for line in text.splitlines() if ERASES_LINE not in line]
    kept = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in lines]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n") + "\n"


def outputs(given: list[Any]) -> list[Any]:
    """Gives what a cell shows, with all that it prints in one piece.

    The error stream is left out: libraries write bars of progress and warnings to it.
    """
    kept = list[Any]()
    for one in given:
        if one["output_type"] != "stream":
            kept.append(one)
        elif one["name"] != "stderr":
            if kept and kept[-1]["output_type"] == "stream":
                kept[-1]["text"] += one["text"]
            else:
                kept.append(one)
    for one in kept:
        if one["output_type"] == "stream":
            one["text"] = plain(one["text"])
    return kept


def executed(path: Path, folder: Path) -> Any:
    """Executes a notebook's cells in a folder; a cell that fails is an error of nbclient."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(book, timeout=1800, kernel_name="python3", resources=resources).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # times of day change with every run
        if "outputs" in cell:
            cell.outputs = outputs(cell.outputs)
    book.metadata = {"language_info": {"name": "python"}}
    return book


def main() -> int:
    """Executes every notebook named on the command line; gives the exit code."""
    import tempfile

    import nbformat

    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            book = executed(Path(name), Path(folder))
        nbformat.write(book, name)
        print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
