"""Runs of a detector are made, measured on held-out scenes, and reported as others are."""

import json

import pytest

from tests.cli.test_bad_input import refused


@pytest.mark.slow
def test_a_run_is_measured_on_held_out_scenes(efface, tmp_path):
    out = tmp_path / "run"
    flags = ("--steps", 1, "--batch", 2, "--replay", 0.01, "--out", out)
    made = efface("erase", "gs_lora", "--model", "icons-detector", "--concept", "cat", *flags)
    assert made.code == 1, made
    assert "VALID  NOT ERASED" in made.out
    record = json.loads((out / "evaluation.json").read_text())
    rows = {(one["metric"], one["role"]): one for one in record["measurements"]}
    assert record["model_kind"] == "detector"
    assert rows["found", "erased"]["before"]["count"] == rows["ap50", "erased"]["before"]["count"]
    assert rows["found", "kept"]["before"]["value"] > 0.6 < rows["ap50", "kept"]["before"]["value"]
    assert "Average precision at half overlap" in (out / "report.html").read_text()


def test_held_out_scenes_must_be_scenes(efface, tmp_path):
    (tmp_path / "cat").mkdir()
    flags = ("--test-data", tmp_path, "--out", tmp_path / "run")
    refused(
        efface("erase", "gs_lora", "--model", "icons-detector", "--concept", "cat", *flags), "JSON"
    )
