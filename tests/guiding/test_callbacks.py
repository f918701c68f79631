"""Guides that move latents work in diffusers' pipelines through their callback."""

from dataclasses import dataclass

import pytest
import torch

from efface import registry
from efface.contracts import Guide
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.guiding.callbacks import on_step_end
from efface.guiding.course import Course
from tests.conftest import shared
from tests.guiding.toys import drawn


@dataclass(frozen=True, kw_only=True)
class Late(Guide):
    """Moves scaled latents before every pass but the first, as callbacks can."""

    name = "late"

    def begin(self, run):
        course = Course()
        course.before = lambda visit: (
            visit.latents + 0.1 * visit.scaled(visit.latents) if visit.index else None
        )
        return course


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_pipeline_draws_what_the_engine_draws(family):
    pipe = shared(f"tiny_{family}")
    pipe.set_progress_bar_config(disable=True)
    size = 8 * pipe.vae_scale_factor

    def theirs(**more):
        return pipe(
            ["a cat", "a dog"],
            generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
            num_inference_steps=4,
            guidance_scale=3.0,
            height=size,
            width=size,
            output_type="latent",
            **more,
        ).images

    callback = on_step_end(Late(), pipe, ["a cat", "a dog"], guidance=3.0)
    moved = theirs(callback_on_step_end=callback)
    ours, _ = drawn(Denoiser(pipe), [Late()])
    assert torch.allclose(moved, ours, atol=1e-4 * float(ours.abs().max()))
    assert not torch.allclose(moved, theirs(), atol=1e-2)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("negative", {"text": "red"}), ("nag", {}), ("sld", {"concepts": ("x",)})],
)
def test_guides_that_do_more_are_refused_before_the_pipeline_runs(name, settings):
    guide = registry.build("guides", name, **settings)
    with pytest.raises(BadRequest, match=f"{name} changes what is predicted or read"):
        on_step_end(guide, shared("tiny_sd1"), ["a cat"])
