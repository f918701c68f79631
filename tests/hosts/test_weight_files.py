"""Of several files in a network's folder, those are taken that the libraries load."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface.deltas.edited_copy import edited_copy
from efface.errors import BadModel
from efface.hosts.loading import load
from efface.hosts.shards import weight_set
from tests.conftest import host
from tests.exchange.conftest import KEY, LAYER, erased

USUAL = "diffusion_pytorch_model"


@pytest.fixture
def folder(tmp_path):
    host("tiny_sd1").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["a_backup", "base", "model_old"])
def test_files_of_other_names_are_not_taken_for_the_weights(folder, tmp_path, name):
    other = host("tiny_sd1", seed=4).unet.state_dict()
    save_file(
        {k: w.contiguous() for k, w in other.items()}, folder / "unet" / f"{name}.safetensors"
    )
    assert weight_set(folder / "unet").files[0].stem == USUAL
    delta = erased("tiny_sd1")
    made = edited_copy(folder, delta, tmp_path / "edited")
    assert made.left_out == (f"unet/{name}.safetensors",)
    before = load_file(folder / "unet" / f"{USUAL}.safetensors")[f"{LAYER}.weight"]
    after = load_file(tmp_path / "edited" / "unet" / f"{USUAL}.safetensors")[f"{LAYER}.weight"]
    assert torch.allclose(after, before + delta.difference(KEY, before), atol=1e-6)


def test_a_variant_by_the_usual_name_comes_before_a_plain_file_of_another(folder):
    unet = folder / "unet"
    (unet / f"{USUAL}.safetensors").rename(unet / f"{USUAL}.fp16.safetensors")
    save_file({"x": torch.ones(2)}, unet / "adapter.safetensors")
    assert weight_set(unet).variant == "fp16"


def test_two_names_of_one_weight_must_agree(folder):
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    other = (
        name.removeprefix("text_model.") if name.startswith("text_model.") else f"text_model.{name}"
    )
    save_file({**tensors, other: tensors[name].clone()}, path)
    assert weight_set(path.parent).tensors()
    save_file({**tensors, other: tensors[name] + 1}, path)
    with pytest.raises(BadModel, match="are one weight and differ"):
        weight_set(path.parent).tensors()


def test_a_network_saved_as_it_was_compiled_is_refused_by_why(folder):
    path = folder / "unet" / f"{USUAL}.safetensors"
    save_file({f"_orig_mod.{k}": w for k, w in load_file(path).items()}, path, {"format": "pt"})
    with pytest.raises(BadModel, match=r"torch\.compile") as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)
