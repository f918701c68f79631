"""The verbs on the bundled model: words, keep set, preset, suite and judge come by themselves."""

import json
import shutil
from dataclasses import replace

import numpy
import pytest
from PIL import Image

from efface.bundled import suites, weights_folder
from efface.cli.main import main

pytestmark = pytest.mark.skipif(
    not (weights_folder() / "pipeline" / "model_index.json").exists(),
    reason="the bundled model is not built yet: make emoji",
)

STEPS = 8
"""Denoising steps of the few pictures here: coarse, but the judge still names them."""


@pytest.fixture(scope="module")
def few_pictures():
    """A suite of three pictures per role, drawn in few steps."""
    counts = {"erased": 3, "synonym": 3, "paraphrase": 0, "neighbour": 2, "kept": 4}
    counts |= {"general": 0, "composition": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suites._COUNTS, "smoke", counts)
        made = suites.emoji_suite
        patch.setattr(suites, "emoji_suite", lambda *a, **k: replace(made(*a, **k), steps=STEPS))
        yield


@pytest.fixture(scope="module")
def measured(few_pictures, tmp_path_factory):
    """The command that everybody types first, with a small suite."""
    out = tmp_path_factory.mktemp("bundled") / "pistol"
    erase = ["erase", "rece", "--concept", "pistol", "--size", "smoke", "--out", str(out)]
    assert main(erase) == 0
    return out


@pytest.mark.thorough
def test_erase_fills_in_synonyms_keep_set_and_preset(measured):
    record = json.loads((measured / "run.json").read_text())
    concept = record["recipe"]["request"]["erasures"][0]["concept"]
    assert concept["synonyms"]
    assert len(record["recipe"]["request"]["keep"]) > 30
    assert record["recipe"]["preset"] == "emoji"
    assert record["base_model"] == "emoji"


def test_erase_measures_with_the_bundled_judge(measured):
    found = json.loads((measured / "evaluation.json").read_text())
    rates = {
        row["role"]: (row["before"], row["after"])
        for row in found["measurements"]
        if row["metric"] == "presence" and row["concept"] is None
    }
    before, after = rates["erased"]
    assert (before["count"], before["hits"], after["hits"]) == (3, 3, 0)
    assert rates["kept"][1]["hits"] >= 3
    assert found["verdict"] != "invalid"
    names = {path.name for path in measured.iterdir()}
    assert {"card.json", "card.md", "report.html", "before_after.png", "smoke"} <= names
    assert "embedding cost" in (measured / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_evaluate_again_draws_nothing_and_says_the_same(efface, measured, few_pictures):
    before = json.loads((measured / "evaluation.json").read_text())["measurements"]
    store = measured.parent / ".pictures"
    drawn = {path: path.stat().st_mtime_ns for path in store.rglob("*.png")}
    outcome = efface("evaluate", measured, "--size", "smoke", "--json")
    assert outcome.code == 0, outcome
    assert json.loads((measured / "evaluation.json").read_text())["measurements"] == before
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.png")} == drawn


@pytest.mark.slow
def test_verify_and_rerun_agree(efface, measured):
    verified = efface("verify", measured, "--json")
    assert (verified.code, verified.json["smoke"]["pictures"]) == (0, 3)
    repeated = efface("rerun", measured, "--json")
    assert (repeated.code, repeated.json["equal"]) == (0, True)


@pytest.mark.thorough
def test_a_forged_record_or_report_is_noticed(efface, measured, tmp_path):
    forged = tmp_path / "forged"
    shutil.copytree(measured, forged)
    shutil.rmtree(forged / "smoke")  # nothing is drawn
    assert efface("verify", forged).code == 0
    page = forged / "card.md"
    page.write_text(page.read_text().replace("pistol", "cat"))
    record = json.loads((forged / "run.json").read_text())
    record["request"]["erasures"][0]["concept"]["name"] = "cat"
    (forged / "run.json").write_text(json.dumps(record))
    outcome = efface("verify", forged)
    assert outcome.code == 1
    assert "reports DIFFERENT: card.md is not what was written" in outcome.out
    assert "record  DIFFERENT: request is" in outcome.out


@pytest.mark.thorough
def test_a_smaller_measurement_does_not_replace_a_larger_one(efface, measured, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(measured, copy)
    written = json.loads((copy / "evaluation.json").read_text())
    written["samples"] += [{**one, "seed": 99} for one in written["samples"]]
    (copy / "evaluation.json").write_text(json.dumps(written))
    before = (copy / "card.md").read_bytes()
    outcome = efface("evaluate", copy, "--size", "smoke")
    assert outcome.code == 2
    assert "give --overwrite to replace its report and card" in outcome.err
    assert (copy / "card.md").read_bytes() == before


@pytest.mark.slow
def test_apply_draws_something_else_than_the_base_on_the_erased_prompt_only(
    efface, measured, tmp_path
):
    prompts = ("--prompt", "a pistol", "--prompt", "a cat", "--steps", str(STEPS))
    assert efface("apply", measured, *prompts, "--out", tmp_path / "edited.png").code == 0
    assert efface("generate", *prompts, "--out", tmp_path / "base.png").code == 0
    erased, kept = (
        numpy.abs(pixels(tmp_path / f"edited-{i}.png") - pixels(tmp_path / f"base-{i}.png")).mean()
        for i in range(2)
    )
    assert erased > 10
    assert kept < erased / 2


def pixels(path):
    picture = Image.open(path)
    assert picture.size == (64, 64)
    return numpy.asarray(picture.convert("RGB"), dtype=float)


@pytest.mark.slow
def test_a_word_that_the_judge_does_not_know_is_erased_and_not_measured(efface, tmp_path):
    out = tmp_path / "run"
    outcome = efface("erase", "uce", "--concept", "dragonfly", "--out", out)
    assert outcome.code == 0, outcome
    assert "NOT MEASURED" in outcome.out
    assert "emoji was never taught dragonfly" in outcome.out + outcome.err
    assert json.loads((out / "evaluation.json").read_text())["verdict"] == "not measured"


def test_weights_that_were_cut_short_are_one_line(efface, measured, tmp_path, monkeypatch):
    broken = shutil.copytree(weights_folder() / "pipeline", tmp_path / "pipeline")
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    monkeypatch.setattr("efface.bundled.pipeline_folder", lambda: broken)
    outcome = efface("verify", measured)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
    assert "cut short" in outcome.err
