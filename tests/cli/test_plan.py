"""What a plan says of methods that train, beside what they then hold."""

import json

import pytest

from efface.cli.main import main
from efface.concepts import request
from efface.deltas.patches import LowRankPatch
from efface.hosts.survey import survey
from efface.runs.training_plan import plan_training
from tests.conftest import host
from tests.methods.trained import made, ran

BOTH = request(["pistol", "house"], keep=["cat"])


def values_of(patch):
    if isinstance(patch, LowRankPatch):
        return patch.up.numel() + patch.down.numel()
    return patch.difference.numel()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        pytest.param("esd", {"parameters": "unet"}, marks=pytest.mark.slow),
        pytest.param("esd", {"parameters": "key_value"}, marks=pytest.mark.slow),
        pytest.param("spm", {"rank": 2}, marks=pytest.mark.slow),
        ("realera_noise", {"rank": 3}),
        ("advunlearn", {"layers": (0,), "steps": 2}),
    ],
)
def test_what_is_trained_comes_true(model, method, settings):
    plan = plan_training(survey(model), made(method, **settings), BOTH)
    result = ran(method, host("tiny_sd1"), BOTH, **settings)
    patches = result.delta.patches
    assert plan.tensors == len(patches)
    trained = sum(map(values_of, patches.values()))
    assert trained == (plan.added or plan.parameters)
    assert (plan.added > 0) == (method in ("spm", "realera_noise"))


def test_memory_is_that_of_the_model_and_of_what_training_adds(model):
    found = survey(model)
    plan = plan_training(found, made("esd", parameters="unet"), BOTH)
    pipe = host("tiny_sd1")
    networks = (pipe.unet, pipe.vae, pipe.text_encoder)
    whole = sum(weight.numel() for each in networks for weight in each.parameters())
    assert plan.model_bytes == pytest.approx(4 * whole, rel=0.01)  # buffers are files, too
    assert plan.share == 1.0
    assert plan.training_bytes == 16 * plan.parameters


def test_training_a_text_encoder_is_told_as_its_share(model):
    method = made("advunlearn", part="attention", final_norm=False)
    plan = plan_training(survey(model), method, BOTH)
    encoder = host("tiny_sd1").text_encoder
    trained = sum(w.numel() for name, w in encoder.named_parameters() if "self_attn" in name)
    assert (plan.part, plan.parameters) == ("text_encoder", trained)
    assert plan.share == trained / sum(weight.numel() for weight in encoder.parameters())


@pytest.mark.thorough
def test_a_file_is_no_larger_than_planned(model, tmp_path):
    plan = plan_training(survey(model), made("esd"), request("pistol", keep=["cat"]))
    ran("esd", host("tiny_sd1")).delta.save(tmp_path / "delta.safetensors")
    written = (tmp_path / "delta.safetensors").stat().st_size
    assert written <= plan.delta_bytes < 2 * written


@pytest.mark.thorough
def test_a_method_that_needs_an_anchor_is_planned_with_one_only(model, capsys):
    words = ["plan", "doco", "--model", str(model), "--concept", "pistol"]
    assert main(words) == 2
    assert "name one with --anchor" in capsys.readouterr().err
    assert main([*words, "--anchor", "lamp"]) == 0
    assert main([*words, "--target", "prompt_without_concept"]) == 0


@pytest.mark.thorough
def test_methods_in_turn_are_planned_one_by_one(model, capsys):
    words = ["--model", str(model), "--concept", "pistol"]
    assert main(["plan", "uce+esd+esd", *words, "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [*stages] == ["uce", "esd", "esd-2"]
    assert "peak_bytes" in stages["uce"]
    assert stages["esd"] == stages["esd-2"]
    assert main(["plan", "esd", *words, "--parameters", "unet"]) == 0
    told = capsys.readouterr().out
    assert "100.0% of the unet" in told
    assert "is not loaded" not in told
