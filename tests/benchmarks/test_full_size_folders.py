"""The folders of true size: the published numbers of parameters, and files that libraries load."""

import importlib

import pytest
import torch
from benchmarks.full_size_folders import LAYOUTS, Layout, Part, make

import efface
from benchmarks import full_size_folders
from efface.hosts.survey import survey


@pytest.mark.parametrize(
    ("layout", "part", "count"),
    [
        ("sd15", "text_encoder", 123_060_480),
        ("sd15", "unet", 859_520_964),
        ("sd15", "vae", 83_653_863),
        ("sdxl", "text_encoder_2", 694_659_840),
        ("sdxl", "unet", 2_567_463_684),
        ("flux", "text_encoder_2", 4_762_310_656),
    ],
)
def test_configs_give_the_published_numbers_of_parameters(layout, part, count):
    made = LAYOUTS[layout].parts[part]
    kind = getattr(importlib.import_module(made.library), made.kind)
    with torch.device("meta"):
        if made.library == "diffusers":
            network = kind.from_config(made.config)
        else:
            network = kind(kind.config_class(**made.config))
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.thorough
def test_a_made_folder_loads_and_is_edited(tmp_path, monkeypatch):
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tiny |= {"num_attention_heads": 4}
    blocks = ["CrossAttnDownBlock2D", "DownBlock2D"], ["UpBlock2D", "CrossAttnUpBlock2D"]
    denoiser = {
        "block_out_channels": [32, 64],
        "down_block_types": blocks[0],
        "up_block_types": blocks[1],
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "sample_size": 8,
    }
    parts = {
        "text_encoder": Part("transformers", "CLIPTextModel", full_size_folders.CLIP_L | tiny),
        "unet": Part("diffusers", "UNet2DConditionModel", denoiser),
        "vae": Part("diffusers", "AutoencoderKL", {"block_out_channels": [32]}),
    }
    monkeypatch.setitem(LAYOUTS, "sd15", Layout("StableDiffusionPipeline", parts))
    monkeypatch.setattr(full_size_folders, "SHARD_BYTES", 400_000)
    make("sd15", tmp_path / "model")
    assert len(list((tmp_path / "model" / "unet").glob("*-of-*.safetensors"))) > 1
    assert survey(tmp_path / "model").family == "sd1"
    streamed = efface.erase(efface.stream(tmp_path / "model"), "pistol", method="uce").delta
    assert (
        streamed.id
        == efface.erase(efface.load(tmp_path / "model"), "pistol", method="uce").delta.id
    )
