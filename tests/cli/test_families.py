"""Folders of the larger families on the command line: plans, erasures, copies, files, refusals."""

import pytest

from efface.deltas.delta import Delta
from efface.hosts.components import find
from efface.hosts.loading import load
from efface.hosts.streaming import stream
from tests.cli.test_bad_input import refused
from tests.conftest import host

WEIGHTS = {"sdxl": 9, "sd3": 2, "flux": 2, "pixart": 4, "auraflow": 1, "flux2klein": 1, "wan": 4}
WEIGHTS |= {"flux2dev": 1, "sanasprint": 2}
"""How many weights closed forms edit in the toys."""


LARGE = [
    "sdxl",
    *(pytest.param(name, marks=pytest.mark.slow) for name in WEIGHTS if name != "sdxl"),
]


@pytest.fixture(scope="module", params=LARGE)
def large(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param) / "model"
    host(f"tiny_{request.param}").save_pretrained(place)
    return request.param, place


@pytest.mark.thorough
def test_a_family_from_plan_to_files(efface, large, tmp_path):
    name, place = large
    asked = ("--model", place, "--concept", "pistol")
    planned = efface("plan", "uce", *asked, "--json").json
    assert (planned["family"], planned["tensors"]) == (name, WEIGHTS[name])
    out = tmp_path / "run"
    assert efface("erase", "uce", *asked, "--no-evaluate", "--out", out).code == 0
    delta = Delta.load(out)
    opened = stream(place)
    weights = {n: w for key in delta.patches for n, w in find(opened, key).items()}
    assert len(weights) == WEIGHTS[name]
    assert planned["parameters"] == sum(weight.numel() for weight in weights.values())
    copy = efface("apply", out, "--in-place-copy", tmp_path / "copy", "--model", place, "--json")
    assert copy.json["tensors"] == WEIGHTS[name]
    assert efface("verify", out).code == 0
    again = tmp_path / "again"
    assert efface("rerun", out, "--out", again).code == 0
    assert Delta.load(again).id == delta.id
    lora = efface("export", out, "--as", "diffusers-lora", "--out", tmp_path / "lora")
    assert f"{WEIGHTS[name]} layers" in lora.out
    kohya = efface("export", out, "--as", "kohya", "--out", tmp_path / "one.safetensors")
    if name == "sdxl":
        assert f"{WEIGHTS[name]} layers" in kohya.out
        back = ("import", tmp_path / "one.safetensors", *asked, "--out", tmp_path / "back")
        assert efface(*back, "--json").json["tensors"] == WEIGHTS[name]
    else:
        refused(kohya, "export it with --as diffusers-lora")
    adapter = efface("export", out, "--as", "adapter", "--out", tmp_path / "one")
    refused(adapter, "not one map of the text side")


@pytest.mark.parametrize("large", ["pixart", *LARGE[1:3]], indirect=True)
@pytest.mark.parametrize("verb", ["plan", "erase"])
def test_a_method_that_cannot_is_refused_before_any_work(efface, large, tmp_path, verb):
    _, place = large
    out = () if verb == "plan" else ("--out", tmp_path / "run")
    asked = ("--concept", "pistol", "--anchor", "lamp")
    outcome = efface(verb, "doco", "--model", place, *asked, *out)
    refused(outcome, "doco does not edit", "and uce can")
    assert not (tmp_path / "run" / "delta.safetensors").exists()


@pytest.mark.slow
def test_sd3_without_t5_loads_streams_and_is_edited_alike(efface, tmp_path):
    pipe = host("tiny_sd3")
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained(tmp_path / "model")
    asked = ("erase", "uce", "--model", tmp_path / "model", "--concept", "pistol", "--no-evaluate")
    assert efface(*asked, "--out", tmp_path / "streamed").code == 0
    assert efface(*asked, "--smoke", "--out", tmp_path / "loaded").code == 0
    assert Delta.load(tmp_path / "streamed").id == Delta.load(tmp_path / "loaded").id
    assert load(tmp_path / "model").text_encoder_3 is None


@pytest.mark.slow
def test_guidance_that_a_pipeline_does_not_use_is_said(efface, tmp_path):
    host("tiny_flux").save_pretrained(tmp_path / "model")
    words = ("generate", "--model", tmp_path / "model", "--prompt", "a cat", "--steps", "1")
    outcome = efface(*words, "--out", tmp_path / "a.png")
    assert outcome.code == 0, outcome
    note = "guidance 7.5 is not used: this pipeline draws without guidance"
    assert note in outcome.out + outcome.err
    told = efface(*words, "--out", tmp_path / "b.png", "--json").json
    assert told["notes"] == [note]


@pytest.mark.slow
def test_what_pictures_are_is_said_beside_them(efface, tmp_path):
    host("tiny_wan").save_pretrained(tmp_path / "model")
    asked = ("--model", tmp_path / "model", "--concept", "pistol", "--out", tmp_path / "run")
    assert efface("erase", "uce", *asked).code == 0
    card = (tmp_path / "run" / "card.md").read_text("utf-8")
    assert "Every picture is the first frame of a video of one frame" in card
    assert 'frames = pipe("a prompt").frames[0]' in card
    assert "first frame of a video" in (tmp_path / "run" / "report.html").read_text("utf-8")
