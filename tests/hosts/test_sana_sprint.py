"""Sana-Sprint: steps on a circle, which draw noise, and what its pipeline is asked for."""

import pytest
import torch

from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import denoise
from efface.errors import BadModel
from efface.hosts.families import host_of, layout
from tests.cases import HOST_CASES
from tests.conformance.test_hosts import ends
from tests.conftest import shared

(CASE,) = (case for case in HOST_CASES if case.family == "sanasprint")


@pytest.mark.parametrize("steps", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_other_numbers_of_steps_than_two_are_spaced_evenly_as_by_the_pipeline(steps):
    assert host_of(shared(CASE.host)).drawing(steps) == {"intermediate_timesteps": None}
    assert host_of(shared(CASE.host)).drawing(2) == {"intermediate_timesteps": 1.3}
    ours, pipelines, start = ends(CASE, steps=steps, guidance=1.0)
    assert torch.allclose(pipelines, ours, atol=1e-4)
    assert not torch.allclose(pipelines, start, atol=1e-1)


def test_steps_that_draw_noise_need_generators_and_there_is_no_process_of_a_flow():
    pipe = shared(CASE.host)
    denoiser = Denoiser(pipe)
    latents = torch.zeros(1, *denoiser.latent_shape)
    asked = denoiser.conditions(["a cat"])
    steps = denoise(denoiser, latents, asked, scheduler=denoiser.ready(2), guidance=None)
    with pytest.raises(BadModel, match="go along a circle and draw noise"):
        next(steps)
    with pytest.raises(BadModel, match=r"go along a circle \(trigflow\)"):
        _ = denoiser.process
    assert layout(pipe) == "sanasprint"
    assert layout(shared("tiny_sana")) == "sana"
