"""Pipelines of other kinds: img2img becomes text-to-image, others are refused in one line."""

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

import efface
from efface.errors import BadModel
from efface.hosts.pipelines import text_to_image
from tests.conftest import host


def of_kind(kind, channels=4, **more):
    pipe = host("tiny_sd1")
    parts = dict(pipe.components)
    if channels != 4:
        config = {**pipe.unet.config, "in_channels": channels, "_use_default_values": []}
        parts["unet"] = UNet2DConditionModel.from_config(config)
    return kind(**parts, **more, requires_safety_checker=False)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_pipelines_that_start_from_pictures_draw_from_text(kind):
    made = of_kind(kind)
    drawing = text_to_image(made)
    assert type(drawing) is StableDiffusionPipeline
    assert drawing.unet is made.unet
    assert text_to_image(drawing) is drawing
    delta = efface.erase(host("tiny_sd1"), "pistol", keep=["cat"], method="uce").delta
    before = made.unet.conv_in.weight.clone()
    with delta.apply(made):
        pass
    assert torch.equal(made.unet.conv_in.weight, before)


@pytest.mark.parametrize(
    ("kind", "channels"),
    [(StableDiffusionInpaintPipeline, 9), (StableDiffusionInstructPix2PixPipeline, 8)],
)
def test_denoisers_that_read_pictures_are_refused(kind, channels, tmp_path):
    with torch.random.fork_rng(devices=[]):
        made = of_kind(kind, channels)
    made.save_pretrained(tmp_path / "model")
    with pytest.raises(BadModel, match=f"reads {channels} channels and gives 4"):
        text_to_image(efface.load(tmp_path / "model"))
    assert efface.erase(made, "pistol", keep=["cat"], method="uce").diagnostics["probe"]


def test_a_controlnet_is_refused():
    pipe = host("tiny_sd1")
    with torch.random.fork_rng(devices=[]):
        net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 4))
    made = of_kind(StableDiffusionControlNetPipeline, controlnet=net)
    with pytest.raises(BadModel, match="is given pictures for its controlnet"):
        text_to_image(made)
