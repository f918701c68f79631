"""Where a model runs and in what it computes: --device and --dtype of every verb that loads one."""

from pathlib import Path

import pytest
import torch

import efface
from efface.cli.asking import Placed
from efface.cli.output import Output
from efface.concepts import request
from efface.errors import BadRequest
from efface.hosts.families import tiny_pipeline
from efface.runs.recipe import EraseRecipe
from efface.workbench import runs
from efface.workbench.models import _device, load_host


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline("sd1").save_pretrained(folder)
    return folder


def test_the_dtype_that_was_asked_for_is_used_and_said(model, capsys):
    placed = Placed(dtype="bfloat16", device="cpu")
    pipe = load_host(str(model), Output.from_arguments([]), placed)
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.bfloat16
    assert "runs on cpu in bfloat16" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_a_gpu_that_is_there_is_used(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert _device("auto").type == chosen


@pytest.mark.parametrize("device", ["nowhere", "cuda:77", "meta"])
def test_a_device_that_is_not_there_is_refused_in_one_line(model, device):
    with pytest.raises(BadRequest, match=f"--device is {device}, which") as refusal:
        load_host(str(model), Output.from_arguments([]), Placed(device=device))
    assert "\n" not in str(refusal.value)


@pytest.mark.thorough
def test_a_training_method_refuses_half_precision(model):
    pipe = efface.load(model, dtype=torch.float16)
    with pytest.raises(efface.errors.BadModel, match="load it in float32"):
        efface.erase(pipe, "pistol", method="esd")


@pytest.mark.thorough
def test_a_run_says_where_it_was_made_and_is_repeated_there(efface, model, tmp_path):
    erase = ("erase", "uce", "--model", model, "--concept", "pistol", "--no-evaluate")
    asked = ("--device", "cpu", "--dtype", "bfloat16")
    assert efface(*erase, *asked, "--out", tmp_path / "run").code == 0
    recipe = runs.recipe_of(tmp_path / "run")
    assert (recipe.device, recipe.dtype, recipe.config) == ("cpu", "bfloat16", "")
    assert " ".join(asked) in recipe.command()
    again = efface("rerun", tmp_path / "run")
    assert "runs on cpu in bfloat16" in again.out
    assert "\nequal (first" in again.out


def test_what_was_not_asked_is_not_recorded():
    assert Placed().recorded() == {}
    assert Placed(config=Path("a")).recorded() == {"config": "a"}


def test_what_is_asked_now_comes_before_what_a_run_was_made_with(tmp_path):
    made = {"device": "cuda", "dtype": "float16", "config": "configs"}
    recipe = EraseRecipe(model="x", request=request("pistol"), method="uce", **made)
    file = tmp_path / "one.safetensors"
    file.touch()
    assert Placed().or_recorded(recipe, str(file)).recorded() == made
    assert Placed(device="cpu").or_recorded(recipe, "folder").recorded() == {
        "device": "cpu", "dtype": "float16"
    }  # fmt: skip
    kept = Placed().or_recorded(recipe, str(file), config_only=True)
    assert kept.recorded() == {"config": "configs"}
