"""Full disks, signals, second writers and broken judges."""

import json
import math
import resource
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from efface.contracts import Estimate, JudgeCard
from efface.deltas.delta import Delta
from efface.evaluation import suites
from efface.workbench import measuring
from efface.workbench.folder import locked
from tests.processes import started

SLOW_SAVE = """
import os, sys, time
from pathlib import Path
from efface.cli import shell
from efface.workbench.folder import locked
from efface.deltas.delta import Delta

run = Path(sys.argv[1])

def slow(descriptor):
    print("saving", flush=True)
    time.sleep(120)

def verb(arguments, output):
    delta = Delta.load(run)
    changed = delta.scaled(2.0)
    with locked(run) as folder, folder.staged() as staging:
        os.fsync = slow
        changed.save(staging / "delta.safetensors")
    return 0

sys.exit(shell.guarded(verb, []))
"""


@contextmanager
def saving(run):
    """A process in the middle of replacing a run's delta."""
    command = [sys.executable, "-c", SLOW_SAVE, str(run)]
    with started(command) as process:
        assert process.stdout.readline() == "saving\n", process.stderr.read()
        yield process


@pytest.mark.thorough
def test_ctrl_c_during_a_save_keeps_the_old_delta(a_run):
    before = Delta.load(a_run).id
    with saving(a_run) as process:
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complaint == ("efface: interrupted; nothing was written; run the same command again\n")
    assert Delta.load(a_run).id == before
    assert not (a_run / ".partial").exists()


@pytest.mark.slow
def test_kill_during_a_save_keeps_the_old_delta_and_a_second_run_waits(efface, a_run, model):
    before = Delta.load(a_run).id
    again = ("erase", "uce", "--model", model, "--concept", "cat", "--overwrite", "--no-evaluate")
    with saving(a_run) as process:
        outcome = efface(*again, "--out", a_run)
        assert outcome.code == 2
        assert f"is in use by process {process.pid}" in outcome.err
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert Delta.load(a_run).id == before
    assert efface("verify", a_run).code == 0
    assert efface(*again, "--out", a_run).code == 0
    assert Delta.load(a_run).id != before
    assert not (a_run / ".partial").exists()


@contextmanager
def files_of_at_most(size):
    """Makes the operating system refuse larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_nothing(efface, model, tmp_path):
    out = tmp_path / "run"
    with files_of_at_most(1000):
        outcome = efface("erase", "uce", "--model", model, "--concept", "cat", "--out", out)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "free some space" in outcome.err
    assert not out.exists()


def test_full_disk_keeps_the_old_run(efface, a_run, model):
    before = Delta.load(a_run).id
    again = ("erase", "uce", "--model", model, "--concept", "cat", "--overwrite", "--out", a_run)
    with files_of_at_most(1000):
        assert efface(*again).code == 2
    assert Delta.load(a_run).id == before
    assert efface("verify", a_run).code == 0


def test_full_disk_while_drawing_keeps_the_old_picture(efface, model, tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"old")
    draw = ("generate", "--model", model, "--prompt", "a cat", "--steps", "1", "--out", picture)
    with files_of_at_most(20):
        outcome = efface(*draw)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert picture.read_bytes() == b"old"


def test_interrupt_says_how_to_go_on(efface, a_run, monkeypatch):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("efface.evaluation.evaluate", interrupted, raising=False)
    monkeypatch.setattr(measuring, "judge_for", lambda *_: FakeJudge())
    outcome = efface("evaluate", a_run, "--metrics", "presence")
    assert outcome.code == 130
    assert outcome.err == (
        "efface: interrupted; drawn pictures are kept; run the same command again to go on\n"
    )
    with locked(a_run):
        pass


class FakeJudge:
    """Answers what it is told to."""

    def __init__(self, answer=lambda images: torch.full((len(images),), 0.9)):
        self.answer = answer
        rate = Estimate(0.98, 0.95, 1.0, 100, 98)
        self.card = JudgeCard("fake", "1", 0.5, rate, rate, "answers what it is told to")

    def knows(self, concept):
        return True

    def presence(self, images, concept):
        return self.answer(images)


def raising(images):
    raise RuntimeError("the judge fell over")


def not_a_number(images):
    return torch.full((len(images),), math.nan)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(raising, "fell over", marks=pytest.mark.slow),
        (not_a_number, "no finite answer"),
    ],
)
def test_a_broken_judge_is_invalid_and_gives_no_number(
    efface, a_run, monkeypatch, tmp_path, answer, reason
):
    quick(monkeypatch)
    monkeypatch.setattr(measuring, "judge_for", lambda *_: FakeJudge(answer))
    measure = ("evaluate", a_run, "--size", "smoke", "--metrics", "presence")
    outcome = efface(*measure, "--pictures", tmp_path / "pictures", "--json")
    assert outcome.code == 1, outcome
    assert outcome.json["verdict"] == "invalid"
    assert reason in " ".join(outcome.json["reasons"])
    found = json.loads((a_run / "evaluation.json").read_text())
    assert found["measurements"] == []
    card = (a_run / "card.md").read_text().lower()
    assert "invalid" in card


@pytest.mark.slow
def test_a_working_judge_gives_numbers_and_a_report(efface, a_run, monkeypatch, tmp_path):
    quick(monkeypatch)
    monkeypatch.setattr(measuring, "judge_for", lambda *_: FakeJudge())
    measure = ("evaluate", a_run, "--size", "smoke", "--metrics", "presence")
    outcome = efface(*measure, "--pictures", tmp_path / "pictures")
    assert outcome.code == 0, outcome
    assert outcome.out.count("INCONCLUSIVE") == 1, "a judge that always says yes proves nothing"
    names = {path.name for path in a_run.iterdir()}
    assert {"evaluation.json", "card.json", "card.md", "report.html", "before_after.png"} <= names


def quick(monkeypatch):
    """Lets the basic suite draw with two steps."""

    def two_steps(request, **settings):
        return replace(suites.basic_suite(request, **settings), steps=2)

    monkeypatch.setitem(suites.SUITES, "basic", two_steps)
