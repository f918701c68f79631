"""Guides in diffusers' own modular pipeline draw what they draw in our loop."""

import pytest
import torch

from efface import registry
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.guiding.modular import GuideGuider
from tests.conftest import shared
from tests.guiding.toys import drawn, erased

GUIDES = {
    "sld": {"concepts": ("a red house", "pistol"), "warm_up": 0.3, "strength": 20.0},
    "sega": {"remove": ("pistol",), "add": ("a red house",), "starts": (0.3,)},
    "negative": {"text": "pistol", "stop": 0.5},
}


def modular(pipe, guider):
    """Draws with ``StableDiffusionXLModularPipeline``, its components a toy's."""
    from diffusers import StableDiffusionXLAutoBlocks

    made = StableDiffusionXLAutoBlocks().init_pipeline()
    names = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    parts = {name: getattr(pipe, name) for name in names}
    made.update_components(**parts, scheduler=scheduler, guider=guider)
    made.set_progress_bar_config(disable=True)
    size = 8 * pipe.vae_scale_factor
    return made(
        prompt=["a cat"],
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=4,
        height=size,
        width=size,
        output_type="latent",
        output="images",
    )


def guider(name, pipe):
    guide = registry.build("guides", name, **GUIDES[name])
    made = GuideGuider(guide, pipe, ["a cat"], guidance_scale=3.0, experimental=True)
    return guide, made


@pytest.mark.thorough
@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("edited", [False, True])
def test_it_draws_what_the_engine_draws(name, edited):
    """Also where a delta is applied, whose base predicts what to avoid."""
    pipe, delta = erased("sdxl")
    applied = delta.apply(pipe) if edited else None
    try:
        guide, made = guider(name, pipe)
        theirs = modular(pipe, made)
        ours, _ = drawn(Denoiser(pipe), [guide], prompts=["a cat"], seeds=[0])
        plain, _ = drawn(Denoiser(pipe), [], prompts=["a cat"], seeds=[0])
    finally:
        if applied is not None:
            applied.revert()
    assert float((ours - plain).norm() / plain.norm()) > 1e-4
    assert float((theirs - ours).norm()) < 0.02 * float((ours - plain).norm())


def test_it_is_asked_for_by_its_flag_and_only_combines_predictions():
    pipe = shared("tiny_sdxl")
    with pytest.raises(BadRequest, match=r"experimental .* pass experimental=True"):
        GuideGuider(registry.build("guides", "sld"), pipe, ["a cat"])
    with pytest.raises(BadRequest, match="nag does not combine predictions"):
        GuideGuider(registry.build("guides", "nag"), pipe, ["a cat"], experimental=True)
