"""Notebooks hold what their cells give, small, and their cells still run."""

import json
import sys
from pathlib import Path

import pytest

from efface.bundled import weights_folder

ROOT = Path(__file__).parent.parent.parent
BOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
sys.path.insert(0, str(ROOT / "tools"))

import notebooks  # noqa: E402


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_notebooks_are_committed_executed_and_small(book):
    cells = [one for one in json.loads(book.read_text("utf-8"))["cells"] if "outputs" in one]
    assert cells
    assert all(one["execution_count"] for one in cells)
    assert not [out for one in cells for out in one["outputs"] if out["output_type"] == "error"]
    assert book.stat().st_size < 200_000
    assert str(Path.home()) not in book.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.skipif(
    not (weights_folder() / "pipeline" / "model_index.json").exists(),
    reason="the bundled model is not built yet: make emoji",
)
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_the_cells_of_a_notebook_run(book, tmp_path):
    pytest.importorskip("nbclient", reason='needs pip install "efface[docs]"')
    done = notebooks.executed(book, tmp_path)
    assert all(one.execution_count for one in done.cells if one.cell_type == "code")
