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


def test_what_commands_say_is_kept_without_bars_and_colours():
    bar = "\x1b[2Kloading \x1b[35m-\x1b[0m 1/2\n\n"
    said = f"\x1b[?25l\n{bar}{bar}\x1b[?25h\x1b[1A\x1b[2K\x1b[2mattack\x1b[0m  \n{bar}{bar}0 of 4"
    assert notebooks.plain(said) == "attack\n\n0 of 4\n"
    parts = [{"output_type": "stream", "name": "stdout", "text": one} for one in (said, "\nend")]
    error = {"output_type": "stream", "name": "stderr", "text": "warning"}
    shown = notebooks.outputs([parts[0], error, parts[1]])
    assert [one["text"] for one in shown] == ["attack\n\n0 of 4\nend\n"]


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
