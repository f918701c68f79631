"""Everything wrong gets exit code 2, one line that says what to do, and no file."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from efface import registry
from efface.workbench.measuring import judge_names


def refused(outcome, *parts, code=2):
    assert outcome.code == code, outcome
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("efface: ")
    for part in parts:
        assert part in outcome.err


@pytest.fixture
def out(tmp_path):
    """A place for a run; it must still be free at the end of the test."""
    yield tmp_path / "deep" / "run"
    assert not (tmp_path / "deep").exists()


def test_unknown_method(efface, out):
    refused(
        efface("erase", "rec", "--concept", "pistol", "--out", out),
        "there is no method called 'rec'; did you mean rece",
    )


def test_no_method(efface):
    refused(efface("erase", "--concept", "pistol"), "name a method first", "efface list methods")


def test_unknown_setting(efface, out):
    refused(
        efface("erase", "uce", "--concept", "pistol", "--out", out, "--ridgge", "1"),
        "Unrecognized options: --ridgge",
        "did you mean --ridge?",
        "see efface erase uce --help",
    )


def test_setting_out_of_range(efface, out):
    refused(
        efface("erase", "rece", "--concept", "pistol", "--out", out, "--rounds", "-1"), "rounds"
    )


def test_unknown_preset(efface, out):
    refused(
        efface("erase", "uce", "--concept", "pistol", "--out", out, "--preset", "emojy"),
        "there is no preset of uce called 'emojy'",
        "known:",
    )


def test_no_concept(efface, out):
    refused(efface("erase", "uce", "--out", out), "nothing to erase: give --concept NAME")


@pytest.mark.parametrize("name", ["", "   ", "\u00a0", "\u2003\t"])
def test_concept_of_no_token(efface, out, name):
    refused(efface("erase", "uce", "--concept", name, "--out", out), "a concept has an empty name")


def test_concept_that_the_tokenizer_reads_as_nothing(efface, out, model):
    refused(
        efface("erase", "uce", "--model", model, "--concept", "<|endoftext|>", "--out", out),
        "'<|endoftext|>' has no tokens in this model; word the concept anew",
    )


def test_concept_that_is_its_anchor(efface, out):
    refused(
        efface("erase", "uce", "--concept", "pistol", "--anchor", "Pistol", "--out", out),
        "'pistol' would be replaced by itself; choose another anchor",
    )


def test_concept_that_is_kept(efface, out):
    refused(
        efface("erase", "uce", "--concept", "pistol", "--keep", "pistol", "--out", out),
        "'pistol' is both erased and kept",
    )


def test_an_erasure_that_changes_nothing_is_a_failure(efface, out, model):
    erase = ("erase", "uce", "--model", model, "--concept", "pistol", "--out", out)
    refused(
        efface(*erase, "--erase-scale", "1e-12"), "prompts changed by", "raise erase_scale", code=1
    )


def test_unknown_size_is_refused_before_anything_is_loaded(efface, out):
    refused(
        efface("erase", "uce", "--concept", "pistol", "--size", "huge", "--out", out),
        "'huge' is no size of a suite; choose smoke",
    )


def test_settings_file_that_is_missing(efface, out):
    refused(
        efface("erase", "uce", "--concept", "cat", "--out", out, "--settings", "none.toml"),
        "there is no settings file none.toml",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ridge = ", "is not a TOML file"),
        ("ridgge = 1.0", "--ridgge"),
        ('ridge = "much"', "ridge"),
    ],
)
def test_settings_file_that_is_wrong(efface, out, tmp_path, text, message):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    outcome = efface("erase", "uce", "--concept", "cat", "--out", out, "--settings", file)
    refused(outcome, "settings.toml", message)


def test_unknown_model(efface, out):
    refused(
        efface("erase", "uce", "--model", "emojii", "--concept", "cat", "--out", out),
        "there is no folder emojii",
        "did you mean emoji?",
    )


def test_model_with_a_missing_file(efface, out, broken_model):
    (broken_model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    refused(
        efface("erase", "uce", "--model", broken_model, "--concept", "cat", "--out", out),
        "holds no safetensors file",
        "copy the model again",
    )


def test_model_with_a_truncated_file(efface, out, broken_model):
    file = broken_model / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(
        efface("erase", "uce", "--model", broken_model, "--concept", "cat", "--out", out),
        "cut short",
    )


def test_model_with_a_tensor_of_another_shape(efface, out, broken_model):
    file = broken_model / "unet" / "diffusion_pytorch_model.safetensors"
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:, :2].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    erase = ("erase", "uce", "--model", broken_model, "--concept", "cat", "--out", out)
    refused(efface(*erase, "--smoke"), "'conv_in.weight' has shape")


def test_place_that_holds_a_run(efface, a_run, model):
    before = (a_run / "run.json").read_bytes()
    erase = ("erase", "uce", "--model", model, "--concept", "cat", "--out", a_run)
    refused(efface(*erase), "already holds a run; give another --out, or --overwrite")
    assert (a_run / "run.json").read_bytes() == before


def test_place_that_is_a_file(efface, tmp_path, model):
    (tmp_path / "mine").write_text("mine")
    erase = ("erase", "uce", "--model", model, "--concept", "cat", "--out", tmp_path / "mine")
    refused(efface(*erase), "is a file; --out needs a folder")


def test_delta_for_another_base(efface, tmp_path, a_run, other_model):
    picture = tmp_path / "a.png"
    draw = ("apply", a_run, "--model", other_model, "--prompt", "a cat", "--out", picture)
    refused(efface(*draw), "differs from it by", "load the base it was made for")
    assert not picture.exists()


def test_delta_from_a_newer_version(efface, tmp_path, a_run, model):
    file = a_run / "delta.safetensors"
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        header = {**opened.metadata(), "format_version": "99"}
    save_file(tensors, file, metadata=header)
    draw = ("apply", a_run, "--prompt", "a cat", "--out", tmp_path / "a.png")
    refused(efface(*draw), "format version 99", "update efface")


def test_delta_with_a_flipped_bit(efface, tmp_path, a_run):
    file = a_run / "delta.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    draw = ("apply", a_run, "--prompt", "a cat", "--out", tmp_path / "a.png")
    refused(efface(*draw), "was altered")
    refused(efface("verify", a_run), "was altered")


def test_delta_that_is_cut_short(efface, tmp_path, a_run):
    file = a_run / "delta.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    draw = ("apply", a_run, "--prompt", "a cat", "--out", tmp_path / "a.png")
    refused(efface(*draw), "damaged or cut short")


def test_delta_of_another_run(efface, a_run, model, tmp_path):
    other = tmp_path / "other"
    erase = ("erase", "uce", "--model", model, "--concept", "cat", "--no-evaluate", "--out", other)
    assert efface(*erase).code == 0
    (a_run / "delta.safetensors").write_bytes((other / "delta.safetensors").read_bytes())
    refused(efface("verify", a_run), "is not the file that run.json names")


def test_run_that_is_not_there(efface, tmp_path):
    refused(efface("verify", tmp_path / "none"), "there is no run at")
    refused(efface("rerun", tmp_path / "none"), "there is no run at")
    refused(efface("evaluate", tmp_path / "none"), "there is no run at")


def test_record_that_is_damaged(efface, a_run):
    (a_run / "run.json").write_text("{")
    refused(efface("rerun", a_run), "run.json is damaged", "erase again")


def test_record_without_a_recipe(efface, a_run):
    record = json.loads((a_run / "run.json").read_text())
    del record["recipe"], record["method"]
    (a_run / "run.json").write_text(json.dumps(record))
    refused(efface("rerun", a_run), "does not say how to repeat the run")


def test_unknown_judge(efface, a_run):
    refused(
        efface("evaluate", a_run, "--judge", "zero_shoot"),
        "there is no judge called 'zero_shoot'; did you mean zero_shot?",
    )
    assert not (a_run / "evaluation.json").exists()


def test_judge_without_its_model(efface, a_run):
    refused(efface("evaluate", a_run, "--judge", "zero_shot"), "give --judge-folder FOLDER")


@pytest.mark.thorough
def test_unknown_suite_and_metric(efface, a_run):
    refused(efface("evaluate", a_run, "--suite", "emojis"), "there is no suite called 'emojis'")
    refused(efface("evaluate", a_run, "--metrics", "kidd"), "no metric called 'kidd'", "kid")


def test_nothing_to_draw(efface, tmp_path, model):
    picture = tmp_path / "a.png"
    refused(efface("generate", "--model", model, "--out", picture), "nothing to draw")
    refused(
        efface("generate", "--model", model, "--prompt", "a", "--steps", "0", "--out", picture),
        "steps is 0; a picture needs at least one",
    )


def test_traceback_only_on_demand(efface, tmp_path):
    outcome = efface("verify", tmp_path / "none", "--traceback")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("efface: there is no run at")


def test_a_run_in_place_of_a_model(efface, made_run, out):
    outcome = efface("generate", "--model", made_run, "--prompt", "x", "--out", "x.png")
    refused(outcome, "is a run of efface and no model", f"efface apply {made_run}")
    refused(efface("erase", "uce", "--model", made_run, "--concept", "x", "--out", out), "no model")


@pytest.mark.parametrize("verb", [("evaluate",), ("attack", "--with", "other_seeds")])
def test_a_model_that_the_run_was_not_made_for(efface, a_run, other_model, verb):
    name, *flags = verb
    refused(efface(name, a_run, "--model", other_model, *flags), "this model differs from it by")
    if name == "evaluate":
        refused(efface(name, a_run, "--model", "icons-vit"), "delta is for another kind of model")


def test_a_file_in_place_of_a_run(efface, a_run):
    attack = ("attack", a_run / "delta.safetensors", "--with", "other_seeds")
    refused(efface(*attack), "a run is a folder, so name that")


def test_a_scale_of_no_delta(efface, tmp_path):
    draw = ("generate", "--prompt", "cat", "--scale", 0.5, "--out", tmp_path / "x.png")
    refused(efface(*draw), "--scale 0.5 is of deltas, and none is given; add --delta")


def test_every_bundled_model_and_judge_is_listed(efface):
    listed = {row["name"] for row in efface("list", "models", "--json").json["models"]}
    assert listed >= {*registry.BUNDLED, *registry.VISION}
    judges = efface("list", "judges", "--json").json["judges"]
    assert {row["name"] for row in judges} >= {*judge_names()}
