"""`efface attack` and `efface matrix`: what they refuse, write and say."""

import json
import shutil

import pytest

from efface.evaluation.revival import AttackRecord
from tests.judges.toys import saved_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return saved_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def attacked(made_run, clip, tmp_path):
    """A copy of a run of the toy, and the flags that give it a judge."""
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    return run, ("--judge", "zero_shot", "--judge-folder", clip, "--suite", "basic")


@pytest.mark.slow
def test_an_attack_is_written_into_the_run_and_said(efface, attacked):
    run, judge = attacked
    done = efface("attack", run, "--with", "random_prefix", "--trials", 2, "--budget", 250, *judge)
    assert done.err == ""
    (path,) = (run / "attacks").glob("random_prefix-*.json")
    record = AttackRecord.load(path)
    assert record.attack == "random_prefix"
    assert len(record.trials) == 2
    assert all(trial.spent <= 250 for trial in record.trials)
    assert "random prefix" in done.out
    assert path.with_suffix(".safetensors").exists()
    again = efface("attack", run, "--with", "random_prefix", "--trials", 2, "--budget", 250, *judge)
    assert "measured already" in again.out


def test_no_attack_and_one_that_is_unknown_are_refused(efface, made_run):
    nothing = efface("attack", made_run)
    assert (nothing.code, nothing.err.count("\n")) == (2, 1)
    assert "name an attack by --with" in nothing.err
    unknown = efface("attack", made_run, "--with", "soft_promt")
    assert unknown.code == 2
    assert "soft_prompt" in unknown.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--budget", 0), "the budget is 0 network evaluations"),
        (("--trials", 0), "--trials is 0"),
        (("--trials", 1000), "--trials is 1000"),
    ],
)
def test_a_budget_or_trials_that_cannot_be_are_refused(efface, attacked, flags, message):
    run, judge = attacked
    done = efface("attack", run, "--with", "random_prefix", *judge, *flags)
    assert done.code == 2
    assert message in done.err
    assert not (run / "attacks").exists()


def test_a_run_whose_base_is_gone_is_refused(efface, attacked):
    run, judge = attacked
    record = json.loads((run / "run.json").read_text())
    record["recipe"]["model"] = str(run / "no such model")
    (run / "run.json").write_text(json.dumps(record))
    done = efface("attack", run, "--with", "random_prefix", *judge)
    assert done.code == 2
    assert "no such model" in done.err


def test_no_run_is_refused(efface, tmp_path):
    done = efface("attack", tmp_path / "nowhere", "--with", "random_prefix")
    assert done.code == 2
    assert "there is no run at" in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--methods", "uces"), "uce"),
        (("--attacks", "soft_promt"), "soft_prompt"),
        (("--concepts", "zeppelin"), "no noun or style 'zeppelin'"),
        (("--model", "./sd15"), "is not a bundled model"),
        (("--budget", 0), "the budget is 0"),
        (("--trials", 41), "there are 1 to 40 trials, not 41"),
        (("--methods", "scrub"), "scrub does not edit emoji"),
        (("--workers", 0), "0 workers"),
    ],
)
def test_a_matrix_of_what_is_not_there_is_refused(efface, tmp_path, flags, message):
    done = efface("matrix", "--out", tmp_path / "matrix", *flags)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "matrix").exists()


def test_a_place_that_cannot_be_written_is_refused(efface, tmp_path):
    (tmp_path / "file").write_text("a file")
    done = efface("matrix", "--out", tmp_path / "file" / "inside", "--executor", "local")
    assert done.code == 2
    assert "cannot be written to" in done.err
