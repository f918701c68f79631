"""Where a model runs and in what it computes: --device and --dtype of every verb that loads one."""

import pytest
import torch

import efface
from efface.cli.asking import Placed
from efface.cli.output import Output
from efface.errors import BadRequest
from efface.hosts.families import tiny_pipeline
from efface.workbench.models import load_host


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


@pytest.mark.parametrize("device", ["nowhere", "cuda:77", "meta"])
def test_a_device_that_is_not_there_is_refused_in_one_line(model, device):
    with pytest.raises(BadRequest, match=f"--device is {device}, which") as refusal:
        load_host(str(model), Output.from_arguments([]), Placed(device=device))
    assert "\n" not in str(refusal.value)


def test_a_training_method_refuses_half_precision(model):
    pipe = efface.load(model, dtype=torch.float16)
    with pytest.raises(efface.errors.BadModel, match="load it in float32"):
        efface.erase(pipe, "pistol", method="esd")
