"""The live progress bar on a terminal."""

import re
import time

import pytest

from efface.cli.output import Output


@pytest.mark.parametrize("width", [50, 80, 160])
def test_the_bar_is_one_line_that_goes_away(capsys, monkeypatch, width):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("COLUMNS", str(width))
    figures = {"loss": 0.0456, "erase": 3.0625e-12, "anchor": 0.00333, "keep": 0.000185}
    output = Output(machine=False, traceback=False)
    with output.progress("erasing with spm") as monitor:
        monitor.before("sampling trajectories", 2, 40)
        time.sleep(0.3)  # it is drawn ten times a second
        for step in range(3):
            monitor(step, 3, figures)
    written = capsys.readouterr().err
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    lines = [line for line in re.split(r"[\r\n]", shown) if line.strip()]
    assert lines
    assert all(len(line) <= width for line in lines)
    assert "2/40" in shown
    assert "sampling trajectories" in shown
    assert "erasing with spm" in lines[-1]
    assert "3/3" in lines[-1]
    assert ("keep 0.000185" in lines[-1]) == (width == 160)
    assert "loss" in lines[-1] or width == 50
    assert written.rstrip().endswith("\x1b[2K")
