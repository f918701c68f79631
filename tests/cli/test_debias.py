"""The verb debias: what it asks for, and that its runs are runs like all others."""

import json

import pytest

from efface.bundled import weights_folder

bundled = pytest.mark.skipif(
    not (weights_folder() / "pipeline" / "model_index.json").exists(),
    reason="the bundled model is not built yet: make emoji",
)
PISTOL = ("debias", "--concept", "pistol")
FEW = ("--pictures", 16, "--rounds", 1, "--steps", 6, "--least-presence", 0)


@pytest.fixture(scope="module")
def debiased(tmp_path_factory):
    """A pistol, which the model draws as twemoji half of the time, moved once."""
    from efface.cli.main import main

    out = tmp_path_factory.mktemp("debias") / "pistol"
    styles = ("--attributes", "twemoji", "3d", "sepia", "blueprint")
    words = [*PISTOL, *styles, *FEW, "--step", 0.4, "--out", out]
    assert main([str(word) for word in words]) == 0
    return out


@bundled
@pytest.mark.slow
def test_a_run_has_a_delta_and_the_shares_of_every_round(debiased):
    record = json.loads((debiased / "run.json").read_text())
    assert record["method"] == "debias"
    assert (record["diagnostics"]["taken"], len(record["diagnostics"]["tallies"])) == (1, 2)
    assert record["settings"]["keep_scale"] == 3.0
    assert record["recipe"]["judge"] == "emoji"
    first, second = map(json.loads, (debiased / "curves.jsonl").read_text().splitlines())
    assert second["distance"] < first["distance"]
    assert second["twemoji"] < first["twemoji"]


@bundled
@pytest.mark.slow
def test_a_run_can_be_repeated_verified_and_exported_but_not_measured_as_erased(
    efface, debiased, tmp_path
):
    again = efface("rerun", debiased, "--json")
    assert (again.code, again.json["equal"]) == (0, True), again
    assert efface("verify", debiased).code == 0
    assert (
        efface("export", debiased, "--as", "adapter", "--out", tmp_path / "a.safetensors").code == 0
    )
    refused = efface("evaluate", debiased)
    assert refused.code == 2
    assert "was debiased, so nothing in it was to be erased" in refused.err


@bundled
@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_not_replaced_unasked(efface, debiased):
    outcome = efface(*PISTOL, "--attributes", "twemoji", "3d", "--out", debiased)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "already holds a run" in outcome.err


@bundled
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "at least two different ones"),
        (("--attributes", "twemoji", "cubism"), "does not know 'cubism'"),
        (("--attributes", "twemoji", "3d", "--shares", 0.5, 0.6), "add up to 1.1"),
        (("--attributes", "twemoji", "3d", "--judge", "emojy"), "did you mean emoji?"),
    ],
)
def test_bad_input_is_one_line(efface, tmp_path, flags, message):
    outcome = efface(*PISTOL, *flags, "--out", tmp_path / "run")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
    assert message in outcome.err
    assert not (tmp_path / "run").exists()


def test_another_model_needs_a_judge(efface, model, tmp_path):
    words = ("--model", model, "--attributes", "red", "blue", "--out", tmp_path / "run")
    outcome = efface(*PISTOL, *words)
    assert outcome.code == 2
    assert "give --judge zero_shot --judge-folder FOLDER" in outcome.err


@pytest.mark.parametrize("verb", [("evaluate",), ("attack", "--with", "other_seeds"), ("card",)])
def test_a_debiased_run_is_refused_where_something_was_to_be_erased(efface, a_run, verb):
    record = json.loads((a_run / "run.json").read_text())
    record["recipe"]["method"] = "debias"
    (a_run / "run.json").write_text(json.dumps(record))
    refused = efface(verb[0], a_run, *verb[1:])
    assert refused.code == 2
    assert "was debiased, so nothing in it was to be erased" in refused.err
