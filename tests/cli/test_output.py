"""The live progress bar on a terminal, and what machines read."""

import json
import math
import re
import time

import pytest

from efface.cli.main import main
from efface.cli.output import Output
from efface.cli.shell import guarded
from efface.errors import BadRequest


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


def strict(text):
    def refused(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refused)


def test_numbers_that_are_not_finite_are_null_for_machines(capsys):
    output = Output(machine=True, traceback=False)
    output.result({"a": [math.nan, {"b": math.inf}], "c": (1.5, -math.inf), "d": "x"})
    assert strict(capsys.readouterr().out) == {"a": [None, {"b": None}], "c": [1.5, None], "d": "x"}


def test_machines_get_one_object_whatever_goes_wrong(capsys):
    assert main(["erse", "--json"]) == 2
    assert "no verb called 'erse'" in strict(capsys.readouterr().out)["error"]["message"]

    def told_before(_, output):
        output.result({"done": True})
        raise BadRequest("too late")

    assert guarded(told_before, ["--json"]) == 2
    assert strict(capsys.readouterr().out) == {"done": True}

    def unforeseen(*_):
        raise AttributeError("nobody thought of it")

    with pytest.raises(AttributeError):
        guarded(unforeseen, ["--json"])
    assert strict(capsys.readouterr().out)["error"]["kind"] == "Unexpected"
