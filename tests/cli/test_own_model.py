"""Runs of a model of one's own: pictures, page and card where no judge knows what was erased."""

import json
import shutil
from dataclasses import replace

import pytest

from efface import memory
from efface.concepts import Concept, request
from efface.evaluation import suites
from efface.evaluation.looking import look_suite
from efface.evaluation.record import Evaluation
from efface.runs.recipe import EraseRecipe
from efface.workbench import measuring
from tests.cli.test_bad_input import refused
from tests.judges.toys import saved_clip


@pytest.fixture(scope="module")
def short():
    """Draws two steps in place of twenty-five."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(measuring, "_look", lambda recipe: look_suite(recipe.request, steps=2))
        yield


@pytest.fixture(scope="module")
def looked(short, model, tmp_path_factory):
    """A run of the toy whose pictures nobody judged, and what the command said."""
    from efface.cli.main import main

    out = tmp_path_factory.mktemp("own") / "runs" / "pistol"
    words = ["erase", "uce", "--model", model, "--concept", "pistol", "--keep", "cat"]
    assert main([str(word) for word in [*words, "--out", out]]) == 0
    return out


@pytest.mark.thorough
def test_a_run_that_nobody_judged_has_pictures_a_page_and_a_card(efface, looked):
    for name in ("before_after.png", "thumbnail.jpg", "report.html", "card.md", "card.json"):
        assert (looked / name).is_file(), name
    values = json.loads((looked / "card.json").read_text())
    assert values["verdict"] == values["outcome"]["name"] == "not measured"
    assert not values["efficacy"]
    assert not values["shown"]["results"]
    assert {one["name"] for one in values["controls"] if one["passed"]} == {"model", "edit"}
    page = (looked / "report.html").read_text()
    assert "<strong>not measured</strong>" in page
    assert 'class="verdict warn"' in page
    assert 'class="verdict good"' not in page
    assert page.count("data:image/") >= 12, "six pictures before and six after"
    card = efface("card", looked)
    assert card.code == 0
    assert "Verdict of the measurement: **not measured**" in card.out
    assert "eval_results" not in card.out
    assert "model-index" not in card.out
    assert efface("verify", looked).code == 0


@pytest.mark.thorough
def test_what_was_judged_is_not_replaced_by_what_nobody_judged(efface, looked, model, tmp_path):
    run = shutil.copytree(looked, tmp_path / "run")
    again = efface("evaluate", run, "--json").json
    assert (again["verdict"], again["outcome"]) == ("not measured", "not measured")
    found = Evaluation.load(run)
    replace(found, verdict="inconclusive", store=found.store).save(run)
    refused(efface("evaluate", run), "holds a measurement of 6 pictures", "--overwrite")


@pytest.mark.thorough
def test_a_model_that_does_not_fit_is_edited_and_not_drawn_with(
    efface, model, tmp_path, monkeypatch
):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    erase = ("erase", "uce", "--model", model, "--concept", "pistol", "--out", tmp_path / "run")
    outcome = efface(*erase)
    assert outcome.code == 0
    assert "GB are free, so no picture was drawn" in outcome.out
    assert "there is no report and no card" in outcome.out
    assert (tmp_path / "run" / "delta.safetensors").is_file()
    assert not (tmp_path / "run" / "card.json").exists()
    monkeypatch.undo()
    asked = efface("card", tmp_path / "run")
    assert (asked.code, "efface evaluate" in asked.err) == (2, True)


def test_a_few_pictures_span_what_goes_and_what_stays():
    alone = look_suite(request("pistol", keep=["cat", "dog", "tree"]))
    assert [one.role for one in alone.samples] == ["erased"] * 2 + ["kept"] * 2 + ["general"] * 2
    assert len({one.seed for one in alone.samples if one.role != "erased"}) == 4
    worded = Concept(name="pistol", prompts=("a weapon in a case", "another"))
    several = look_suite(request([worded, "rifle", "sword", "axe"]))
    assert [one.prompt for one in several.samples[:3]] == [
        "a weapon in a case", "a photo of a rifle", "a photo of a sword"
    ]  # fmt: skip
    assert [one.role for one in several.samples[3:]] == ["general"] * 4


def test_words_that_the_bundled_judge_does_not_know_are_looked_at():
    asked = {"model": "emoji", "method": "uce"}
    unknown = EraseRecipe(**asked, request=request("zeppelin"))
    known = EraseRecipe(**asked, request=request("pistol"))
    plan = measuring.Plan()
    assert measuring.looks(unknown, plan)
    assert not measuring.looks(known, plan)
    assert measuring.named_judge("emoji") == ("emoji", None)


@pytest.mark.thorough
def test_a_clip_folder_is_a_judge_with_labels_of_the_request(efface, looked, tmp_path, monkeypatch):
    def short(wanted, *, size):
        whole = suites.basic_suite(wanted, size=size)
        kept = {(one.role, one.prompt): one for one in whole.samples}
        return replace(whole, samples=tuple(kept.values()), steps=2)

    run, clip = shutil.copytree(looked, tmp_path / "run"), saved_clip(tmp_path / "clip")
    monkeypatch.setitem(suites.SUITES, "basic", short)
    outcome = efface("evaluate", run, "--judge", clip, "--json")
    assert outcome.err == ""
    found = Evaluation.load(run)
    assert found.judge.name == "zero_shot (clip)"
    assert "Told apart from: pistol; cat; a picture of something else" in found.judge.notes
    assert {"positive", "negative"} <= {one.name for one in found.controls}
    assert found.verdict in ("valid", "inconclusive"), "a toy sees nothing; controls say so"
    assert outcome.json["verdict"] == found.verdict
    assert found.find("presence", "erased").after.count > 0
    assert "zero_shot (clip) version 1" in efface("card", run).out


def test_a_judge_that_is_none_is_refused_before_any_work(efface, model, tmp_path):
    erase = ("erase", "uce", "--model", model, "--concept", "pistol", "--out", tmp_path / "run")
    refused(efface(*erase, "--judge", model), "config.json")
    refused(efface(*erase, "--judge", "emojy"), "did you mean emoji?")
    assert not (tmp_path / "run").exists()
