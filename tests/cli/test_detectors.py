"""Runs of a detector are made, and say that they are not measured yet."""

from tests.cli.test_bad_input import refused


def test_a_run_is_made_and_says_that_it_is_not_measured(efface, tmp_path):
    out = tmp_path / "run"
    flags = ("--steps", 1, "--batch", 2, "--replay", 0.01, "--out", out)
    made = efface("erase", "gs_lora", "--model", "icons-detector", "--concept", "cat", *flags)
    assert made.code == 0, made
    assert "not measured: a run of a detector has no report yet" in made.out + made.err
    refused(efface("evaluate", out), "icons-detector is a detector", "has no report yet")
