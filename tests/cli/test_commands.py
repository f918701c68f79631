"""The command in run.json, on cards and on pages, typed as it stands, gives the same delta."""

import json
import shlex

import pytest

from efface.evaluation.record import Evaluation
from efface.hosts.loading import load
from efface.reports.facts import run_facts
from efface.runs.erasing import erase
from tests.cases import CASES
from tests.conftest import shared
from tests.reports.conftest import made

FIRST = {case.method: case for case in CASES[::-1]}
"""One case of every method: the first that is listed."""
QUICK = ("uce", "rece")


def record(folder):
    return json.loads((folder / "run.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Writes the toys of cases to disk, each once."""
    place = tmp_path_factory.mktemp("toys")

    def folder(name):
        if not (place / name).exists():
            shared(name).save_pretrained(place / name)
        return place / name

    return folder


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in sorted(FIRST)
    ],
)
def test_the_printed_command_gives_the_same_delta(efface, folders, tmp_path, monkeypatch, method):
    case, run = FIRST[method], tmp_path / "run"
    model = folders(case.host)
    result = erase(load(str(model)), case.request, method=method, **case.settings)
    result.save(run)
    command = record(run)["command"]
    assert run_facts(evaluated(tmp_path, result), record(run)).command == command
    monkeypatch.chdir(run)  # where "efface rerun run.json" finds it
    program, *words = shlex.split(command)
    assert program == "efface"
    again = run / words[words.index("--out") + 1]
    outcome = efface(*words, *(["--no-evaluate"] if words[0] == "erase" else []))
    assert outcome.code == 0, outcome
    assert record(again)["delta"] == record(run)["delta"]


def evaluated(tmp_path, result) -> Evaluation:
    """Gives an evaluation that knows the delta's provenance, as those of runs do."""
    from efface.evaluation.encoding import encoded

    return made(tmp_path / "evaluated", provenance=encoded(result.delta.provenance))
