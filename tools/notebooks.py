"""Writes a notebook of docs/notebooks anew with what its cells give, at small size.

python tools/notebooks.py docs/notebooks/erase_and_look.ipynb ...     executes and writes
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

__all__ = ["executed", "main"]


def executed(path: Path, folder: Path) -> Any:
    """Executes a notebook's cells in a folder; a cell that fails is an error of nbclient."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(book, timeout=900, kernel_name="python3", resources=resources).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # times of day change with every run
        # Bars of progress and warnings of libraries are written to the error stream.
        if "outputs" in cell:
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
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
