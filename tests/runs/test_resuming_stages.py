"""Checkpoints through `efface.erase`: of one method, of methods in turn, and of other bases."""

import pytest
import torch

import efface
from efface.errors import BadRequest
from efface.training.parameters import chosen
from tests.conftest import host

TOY = {"steps": 4, "batch": 2, "sampling_steps": 3, "trajectories": 2}
TOY |= {"keep_weight": 5.0, "keep_trajectories": 2, "learning_rate": 2e-3}


def erased(pipe, folder, *, stop=None, resume=False, **more):
    """Erases with closed form and training in turn, interrupted in training's step ``stop``."""

    def monitor(step, _, figures):
        if "erase" in figures and step + 1 == stop:
            raise KeyboardInterrupt

    settings = {"method": "uce+esd", "uce": {"ridge": 0.5}, "esd": TOY} | more
    workspace = efface.Workspace(checkpoint=folder, resume=resume)
    return efface.erase(
        pipe, "pistol", keep=["cat"], workspace=workspace, monitor=monitor, **settings
    ).delta


def interrupted(pipe, folder, **more):
    with pytest.raises(KeyboardInterrupt):
        erased(pipe, folder, stop=2, **more)


@pytest.mark.thorough
def test_methods_in_turn_resume_to_the_same_delta(tiny_sd1, tmp_path):
    whole = erased(tiny_sd1, None)
    interrupted(tiny_sd1, tmp_path)
    again = erased(tiny_sd1, tmp_path, resume=True)
    assert again.id == whole.id
    assert not [*tmp_path.rglob("*.safetensors")]


@pytest.mark.thorough
def test_a_later_stage_is_not_resumed_on_another_earlier_one(tiny_sd1, tmp_path):
    interrupted(tiny_sd1, tmp_path)
    with pytest.raises(BadRequest, match=r"of another run .* then "):
        erased(tiny_sd1, tmp_path, resume=True, uce={"ridge": 5.0})


@pytest.mark.thorough
def test_a_checkpoint_of_a_base_with_the_same_name_but_other_weights_is_refused(tmp_path):
    pipe = host("tiny_sd1")
    interrupted(pipe, tmp_path)
    weight = next(iter(chosen(pipe, "key_value").values()))
    with torch.no_grad():
        weight.add_(0.1)
    with pytest.raises(BadRequest, match="of another run"):
        erased(pipe, tmp_path, resume=True)


def test_resuming_asks_for_a_folder_a_checkpoint_and_a_method_that_trains(tiny_sd1, tmp_path):
    with pytest.raises(BadRequest, match="needs the folder"):
        efface.erase(tiny_sd1, "pistol", method="esd", workspace=efface.Workspace(resume=True))
    with pytest.raises(BadRequest, match="there is no checkpoint"):
        erased(tiny_sd1, tmp_path, resume=True)
    with pytest.raises(BadRequest, match="does not train"):
        workspace = efface.Workspace(checkpoint=tmp_path, resume=True)
        efface.erase(tiny_sd1, "pistol", method="uce", workspace=workspace)
