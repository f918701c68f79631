"""The verbs on the bundled model: its own words, keep set and preset come by themselves."""

import json

import pytest
from PIL import Image

from efface.emoji import weights_folder

pytestmark = pytest.mark.skipif(
    not (weights_folder() / "pipeline" / "model_index.json").exists(),
    reason="the bundled model is not built yet: make emoji",
)


def test_erase_fills_in_synonyms_keep_set_and_preset(efface, tmp_path):
    out = tmp_path / "run"
    outcome = efface("erase", "rece", "--concept", "pistol", "--no-evaluate", "--out", out)
    assert outcome.code == 0, outcome
    record = json.loads((out / "run.json").read_text())
    concept = record["recipe"]["request"]["erasures"][0]["concept"]
    assert concept["synonyms"]
    assert len(record["recipe"]["request"]["keep"]) > 30
    assert record["preset"] == "emoji"
    assert record["base_model"] == "emoji"
    assert efface("verify", out).code == 0
    assert efface("rerun", out).code == 0


def test_generate_draws_64_pixels(efface, tmp_path):
    picture = tmp_path / "cat.png"
    assert efface("generate", "--prompt", "a cat", "--steps", "2", "--out", picture).code == 0
    assert Image.open(picture).size == (64, 64)


def test_a_word_that_the_judge_does_not_know_is_erased_and_not_measured(efface, tmp_path):
    out = tmp_path / "run"
    outcome = efface("erase", "uce", "--concept", "dragonfly", "--out", out)
    assert outcome.code == 0, outcome
    assert "the bundled judge does not know dragonfly" in outcome.out
    assert not (out / "evaluation.json").exists()
