"""The verbs on a toy model: what they write, and that they agree with each other."""

import json

import numpy
import pytest
from PIL import Image


def pixels(path):
    return numpy.asarray(Image.open(path).convert("RGB"))


def test_erase_writes_a_whole_run(made_run):
    names = {path.name for path in made_run.iterdir()}
    assert {"delta.safetensors", "run.json", "curves.jsonl", "smoke"} <= names
    assert ".partial" not in names
    record = json.loads((made_run / "run.json").read_text())
    assert record["recipe"]["method"] == "uce"
    assert record["recipe"]["request"]["erasures"][0]["concept"]["name"] == "pistol"


def test_settings_come_from_class_preset_file_and_flag_in_that_order(efface, model, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("ridge = 0.25\nrounds = 2\n")
    erase = ("erase", "rece", "--model", model, "--concept", "pistol", "--no-evaluate")
    out = tmp_path / "run"
    outcome = efface(*erase, "--settings", file, "--rounds", "1", "--out", out)
    assert outcome.code == 0, outcome
    record = json.loads((out / "run.json").read_text())
    assert record["recipe"]["settings"] == {"ridge": 0.25, "rounds": 1}
    assert record["settings"]["ridge"] == 0.25
    assert record["settings"]["rounds"] == 1
    assert len(record["settings"]) > 2


def test_erase_speaks_json(efface, model, tmp_path):
    out = tmp_path / "run"
    erase = ("erase", "uce", "--model", model, "--concept", "pistol", "--out", out)
    outcome = efface(*erase, "--no-evaluate", "--json")
    assert outcome.code == 0
    assert outcome.json["run"] == str(out)
    assert outcome.json["verdict"] is None
    assert not (out / "smoke").exists()


def test_erase_replaces_a_run_when_told_to(efface, a_run, model):
    before = json.loads((a_run / "run.json").read_text())["delta"]
    erase = ("erase", "uce", "--model", model, "--concept", "cat", "--out", a_run, "--overwrite")
    assert efface(*erase, "--no-evaluate").code == 0
    assert json.loads((a_run / "run.json").read_text())["delta"] != before
    assert not (a_run / "smoke").exists(), "pictures of the old delta must not stay"


@pytest.mark.thorough
def test_verify_agrees_with_a_fresh_run(efface, made_run):
    outcome = efface("verify", made_run, "--json")
    assert outcome.code == 0, outcome
    assert outcome.json["smoke"] == {"pictures": 2, "equal": 2, "mean": 0.0, "largest": 0}


@pytest.mark.thorough
def test_verify_sees_another_picture(efface, a_run):
    changed = 255 - pixels(a_run / "smoke" / "0.png")
    Image.fromarray(changed).save(a_run / "smoke" / "0.png")
    outcome = efface("verify", a_run)
    assert outcome.code == 1
    assert "DIFFERENT: 1 of 2 pictures equal" in outcome.out


def test_rerun_makes_the_same_delta(efface, made_run, tmp_path):
    outcome = efface("rerun", made_run / "run.json", "--json", "--out", tmp_path / "again")
    assert outcome.code == 0, outcome
    assert outcome.json["relative_distance"] == 0.0
    assert (tmp_path / "again" / "delta.safetensors").exists()


def test_rerun_sees_another_delta(efface, a_run):
    record = json.loads((a_run / "run.json").read_text())
    record["recipe"]["request"]["keep"] = []
    record["recipe"]["request"]["erasures"][0]["concept"]["name"] = "church"
    (a_run / "run.json").write_text(json.dumps(record))
    outcome = efface("rerun", a_run)
    assert outcome.code == 1
    assert "different, relative distance" in outcome.out


@pytest.mark.thorough
def test_apply_draws_what_generate_draws_with_the_delta(efface, made_run, model, tmp_path):
    common = ("--prompt", "a pistol", "--steps", "2", "--seed", "3", "--out")
    assert efface("apply", made_run, *common, tmp_path / "a.png").code == 0
    draw = ("generate", "--model", model)
    assert efface(*draw, "--delta", made_run, *common, tmp_path / "b.png").code == 0
    assert efface(*draw, *common, tmp_path / "base.png").code == 0
    applied, with_delta, base = (pixels(tmp_path / f"{n}.png") for n in ("a", "b", "base"))
    assert (applied == with_delta).all()
    assert (applied != base).any()


@pytest.mark.thorough
def test_scale_zero_is_the_base(efface, made_run, model, tmp_path):
    common = ("--prompt", "a pistol", "--steps", "2", "--out")
    assert efface("apply", made_run, "--scale", "0", *common, tmp_path / "a.png").code == 0
    assert efface("generate", "--model", model, *common, tmp_path / "b.png").code == 0
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()


def test_several_prompts_make_several_files(efface, model, tmp_path):
    prompts = ("--prompt", "a cat", "--prompt", "a knife")
    out = tmp_path / "p.png"
    outcome = efface("generate", "--model", model, *prompts, "--steps", "1", "--out", out, "--json")
    assert outcome.json["images"] == [str(tmp_path / "p-0.png"), str(tmp_path / "p-1.png")]
    assert (pixels(tmp_path / "p-0.png") != pixels(tmp_path / "p-1.png")).any()


def test_help_of_a_method_shows_its_settings(capsys):
    import pytest

    from efface.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(["erase", "rece", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(flag in shown for flag in ("--concept", "--rounds", "--ridge", "--preset"))
