"""What another package adds by one file each is there on the command line."""

import json
from dataclasses import replace

import pytest

from efface.evaluation import suites
from tests.added import installed

ADDED = {"methods": ("blend", "nudge"), "judges": ("reddish",), "metrics": ("contrast",)}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return installed(tmp_path_factory.mktemp("package"))


@pytest.fixture(autouse=True)
def there(package, monkeypatch):
    monkeypatch.syspath_prepend(package)


@pytest.fixture
def two_pictures(monkeypatch):
    """Makes a suite short: two pictures, two steps."""

    def short(request, *, size):
        whole = suites.basic_suite(request, size=size)
        return replace(whole, samples=whole.samples[:2], steps=2)

    monkeypatch.setitem(suites.SUITES, "basic", short)


@pytest.mark.parametrize("kind", ADDED)
def test_it_is_listed(efface, kind):
    listed = {row["name"]: row for row in efface("list", kind, "--json").json[kind]}
    for name in ADDED[kind]:
        assert listed[name]["summary"].endswith((".", ")"))


@pytest.mark.thorough
def test_methods_erase_and_judge_and_metric_measure(efface, model, tmp_path, two_pictures):
    plain = ("--model", model, "--concept", "pistol", "--keep", "cat", "--no-evaluate")
    short = (
        "--steps",
        "2",
        "--trajectories",
        "1",
        "--sampling-steps",
        "2",
        "--learning-rate",
        "1e-3",
    )
    trained = efface("erase", "nudge", *plain, *short, "--out", tmp_path / "nudge")
    assert trained.code == 0, trained
    run = tmp_path / "blend"
    assert efface("erase", "blend", *plain, "--ridge", "0.1", "--out", run).code == 0
    assert json.loads((run / "run.json").read_text())["recipe"]["method"] == "blend"
    judge = ("--judge", "reddish", "--judge-settings", "channel=1")
    judge += ("--judge-settings", "threshold=0.01")
    metrics = ("--metrics", "presence", "--metrics", "contrast")
    outcome = efface("evaluate", run, "--suite", "basic", *judge, *metrics, "--json")
    assert outcome.code in (0, 1), outcome
    evaluation = (run / "evaluation.json").read_text()
    assert "reddish 1" in evaluation
    assert "contrast" in evaluation


@pytest.mark.thorough
def test_a_judge_says_which_of_its_settings_is_missing_or_wrong(efface, a_run):
    def refused(*settings):
        given = [word for each in settings for word in ("--judge-settings", each)]
        outcome = efface("evaluate", a_run, "--judge", "reddish", *given)
        assert outcome.code == 2
        return " ".join(outcome.err.split())

    assert "needs channel: give --judge-settings channel=" in refused()
    assert "did you mean channel" in refused("chanel=1")
    assert "channel of reddish is int, not 'red'" in refused("channel=red")
    assert "--judge-settings channel is not of the form name=value" in refused("channel")
    outcome = efface("evaluate", a_run, "--judge", "emoji", "--judge-settings", "channel=1")
    assert "the judge emoji has no settings" in outcome.err
