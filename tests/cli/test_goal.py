"""``efface erase --goal``: as little of the change as is enough, found by drawing; repeatable."""

import json

import pytest

from efface.concepts import request
from efface.runs.recipe import EraseRecipe
from efface.runs.recipe_records import recipe_from
from tests.cli.test_bad_input import refused


def test_a_recipe_has_the_scale_in_its_record_and_command_only_where_it_is_not_whole():
    whole = EraseRecipe(model="./m", request=request("pistol"), method="uce")
    half = EraseRecipe(model="./m", request=request("pistol"), method="uce", delta_scale=0.5)
    assert "delta_scale" not in whole.written()
    assert "--delta-scale" not in whole.command()
    assert recipe_from({"recipe": half.written()}) == half
    assert "--delta-scale 0.5" in half.command()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--target", "5"), "the goal is 5.0; give a share between 0 and 1"),
        (("--goal", "0.1", "--delta-scale", "0.5"), "give one of both"),
        (("--goal", "0.1", "--no-evaluate"), "--goal looks at pictures with a judge"),
        (("--goal", "0.1", "--budget", "0"), "budget is 0"),
        (("--delta-scale", "0"), "the delta's scale is 0.0"),
        (("--target=nowhere",), "nowhere"),
    ],
)
def test_goals_that_make_no_sense_are_refused_before_a_model_is_loaded(
    efface, tmp_path, monkeypatch, words, told
):
    monkeypatch.setattr("efface.cli.erase.host_for", lambda *_, **__: pytest.fail("loaded"))
    outcome = efface("erase", "uce", "--concept", "pistol", "--out", tmp_path / "run", *words)
    refused(outcome, told)


@pytest.mark.slow
def test_the_least_strength_that_is_enough_is_the_run_and_is_repeated(efface, tmp_path):
    out = tmp_path / "run"
    outcome = efface(
        *("erase", "rece", "--concept", "pistol", "--size", "smoke"),
        *("--target", "0.2", "--budget", "2", "--out", out),
    )
    assert outcome.code == 0, outcome.err
    record = json.loads((out / "run.json").read_text())
    tries = record["diagnostics"]["strength_search"]
    assert [one["strength"] for one in tries] == [1.0, 0.5]
    enough = [one["strength"] for one in tries if one["side"] == "below"]
    assert record["recipe"].get("delta_scale", 1.0) == min(enough)
    again = efface("rerun", out / "run.json", "--out", tmp_path / "again")
    assert again.code == 0, again.err
