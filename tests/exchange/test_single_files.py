"""Checkpoints in one file: read by diffusers' converters, and written with a delta in them."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import efface
from efface.errors import BadDelta, BadModel
from efface.exchange.kohya_names import original_name
from efface.exchange.single_files import edited_single_file
from efface.hosts.families import layout
from tests.conftest import shared

IN_VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "mid_block.attentions.0.to_": "mid.attn_1.",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    ".resnets.": ".block.",
}


def in_vae(path):
    for name, original in IN_VAE.items():
        path = path.replace(name, original)
    for block in range(2):
        path = path.replace(f"down_blocks.{block}.", f"down.{block}.")
        path = path.replace(f"up_blocks.{block}.", f"up.{1 - block}.")
    return path


def in_one_file(pipe):
    """Names a small Stable Diffusion 1.x as the original code does, in float16."""
    found = {}
    for path, weight in pipe.unet.state_dict().items():
        module, _, kind = path.rpartition(".")
        found[f"model.diffusion_model.{original_name(module, pipe.unet.config)}.{kind}"] = weight
    for path, weight in pipe.vae.state_dict().items():
        found[f"first_stage_model.{in_vae(path)}"] = weight
    for path, weight in pipe.text_encoder.state_dict().items():
        inside = path.removeprefix("text_model.")
        found[f"cond_stage_model.transformer.text_model.{inside}"] = weight
    return {name: weight.detach().clone().contiguous() for name, weight in found.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A single file, and a folder with configs and tokenizer but no weights."""
    place = tmp_path_factory.mktemp("single")
    pipe = shared("tiny_sd1")
    pipe.save_pretrained(place / "config")
    for file in (place / "config").rglob("*.safetensors"):
        file.unlink()
    save_file(in_one_file(pipe), place / "model.safetensors", metadata={"title": "Small"})
    return place


def test_a_single_file_gives_the_pipeline_it_was_made_of(place):
    loaded = efface.load(place / "model.safetensors", config=place / "config")
    assert layout(loaded) == "sd1"
    for name in ("unet", "vae", "text_encoder"):
        expected = shared("tiny_sd1").components[name].state_dict()
        for path, weight in loaded.components[name].state_dict().items():
            assert torch.equal(weight, expected[path]), (name, path)


@pytest.mark.thorough
def test_a_copy_with_a_delta_loads_as_the_edited_pipeline(place, tmp_path):
    file, out = place / "model.safetensors", tmp_path / "edited.safetensors"
    pipe = efface.load(file, config=place / "config")
    delta = efface.erase(pipe, "pistol", keep=["cat"], method="uce").delta
    names = edited_single_file(file, delta, pipe, out)
    before, after = load_file(file), load_file(out)
    assert {n for n in before if not torch.equal(before[n], after[n])} == set(names)
    assert all("attn2.to_" in name for name in names)
    with safe_open(out, "pt") as opened:
        assert opened.metadata() == {"title": "Small", "efface_delta": delta.id}
    edited = efface.load(out, config=place / "config")
    with delta.apply(pipe):
        for path, weight in pipe.unet.state_dict().items():
            assert torch.equal(edited.unet.state_dict()[path], weight)


def test_a_delta_that_the_layout_has_no_name_for_is_refused(place, tmp_path):
    pipe = efface.load(place / "model.safetensors", config=place / "config")
    delta = efface.erase(pipe, "pistol", keep=["cat"], method="uce").delta
    lacking = load_file(place / "model.safetensors")
    lacking = {name: each for name, each in lacking.items() if "attn2.to_k" not in name}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(BadDelta, match="has no weight of its own in this file"):
        edited_single_file(
            tmp_path / "lacking.safetensors", delta, pipe, tmp_path / "x.safetensors"
        )
    assert not (tmp_path / "x.safetensors").exists()


def changed(place, tmp_path, change):
    tensors = load_file(place / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_files_that_are_no_checkpoint_are_refused_in_one_line(place, tmp_path):
    config = place / "config"
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    lora = tmp_path / "lora.safetensors"
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(1)}, lora)
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    short = changed(place, tmp_path, lambda tensors: tensors.pop(key))
    for file, where, message in (
        (place / "model.safetensors", None, r"give a folder .*--config FOLDER"),
        (place / "model.safetensors", tmp_path / "nowhere", "model_index.json"),
        (pickle, config, "is not a safetensors file"),
        (broken, config, "does not open as safetensors"),
        (lora, config, "efface import"),
        (short, config, "mid_block.resnets.0.conv1.weight|does not load"),
        (config, config, "is not a single file"),
    ):
        with pytest.raises(BadModel, match=message) as refusal:
            efface.load(file, config=where)
        assert "\n" not in str(refusal.value)
