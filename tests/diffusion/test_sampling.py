"""The denoising loop: that it is the pipelines' own, and what may be changed on the way."""

from dataclasses import replace

import pytest
import torch

from efface.diffusion.denoising import Denoiser
from efface.diffusion.noise import guided
from efface.diffusion.sampling import denoise
from efface.diffusion.trajectories import drawn_latents
from tests.conftest import host


@pytest.fixture(scope="module", params=["sd1", "flux"])
def denoiser(request):
    return Denoiser(host(f"tiny_{request.param}"))


def ran(denoiser, *, guidance=3.0, **options):
    """Gives the visits, and where two samples ended."""
    latents = drawn_latents(denoiser, 2, torch.Generator().manual_seed(0))
    conditions = denoiser.conditions(["a cat", "a dog"])
    scheduler = denoiser.ready(4)
    options |= {"scheduler": scheduler, "guidance": guidance}
    return [*denoise(denoiser, latents, conditions, **options)], latents


def test_every_visit_says_what_the_network_predicted_there(denoiser):
    before = denoiser.evaluations
    visits, ended = ran(denoiser)
    assert [visit.index for visit in visits] == [0, 1, 2, 3]
    assert denoiser.evaluations == before + 2 * 2 * 4
    for visit in visits:
        times = visit.time.double().expand(2)
        with denoiser.inference_mode():
            alone = denoiser.predict(visit.latents, times, visit.conditions)
        assert torch.allclose(alone, visit.conditional, atol=1e-5)
        assert torch.equal(visit.prediction, guided(visit.unconditional, visit.conditional, 3.0))
    assert not torch.equal(ended, visits[-1].latents)


def test_samples_stop_where_they_are_told(denoiser):
    _, whole = ran(denoiser)
    visits, ended = ran(denoiser, stops=torch.tensor([4, 2]))
    assert [visit.samples.tolist() for visit in visits] == [[0, 1], [0, 1], [0], [0]]
    assert torch.allclose(ended[0], whole[0], atol=1e-5)
    assert torch.allclose(ended[1], ran(denoiser)[0][2].latents[1], atol=1e-5)


def test_without_guidance_the_conditions_alone_are_asked(denoiser):
    before = denoiser.evaluations
    visits, ended = ran(denoiser, guidance=None)
    assert denoiser.evaluations == before + 2 * 4
    assert visits[0].unconditional is None
    assert torch.allclose(ended, ran(denoiser, guidance=1.0)[1], atol=1e-4)


def test_steering_that_changes_nothing_is_bit_equal(denoiser):
    assert torch.equal(ran(denoiser, steer=lambda visit: visit)[1], ran(denoiser)[1])


def test_steering_sees_every_visit_before_and_after_the_pass(denoiser):
    seen = []

    def steer(visit):
        seen.append((visit.index, visit.conditional is None, visit.samples.tolist()))
        return visit

    ran(denoiser, steer=steer, stops=torch.tensor([2, 1]))
    assert seen == [(0, True, [0, 1]), (0, False, [0, 1]), (1, True, [0]), (1, False, [0])]


def test_steering_may_replace_the_prediction(denoiser):
    def steer(visit):
        if visit.prediction is None:
            return visit
        return replace(visit, prediction=visit.unconditional)

    assert torch.equal(ran(denoiser, steer=steer)[1], ran(denoiser, guidance=0.0)[1])


@pytest.mark.thorough
def test_steering_may_move_the_latents_by_a_gradient(denoiser):
    def steer(visit):
        if visit.prediction is not None:
            return visit
        with torch.enable_grad():
            latents = visit.latents.detach().requires_grad_()
            times = visit.time.double().expand(len(latents))
            loss = denoiser.predict(latents, times, visit.conditions).square().sum()
            (slope,) = torch.autograd.grad(loss, latents)
        return replace(visit, latents=visit.latents - 0.1 * slope)

    visits, ended = ran(denoiser, steer=steer)
    assert not torch.allclose(ended, ran(denoiser)[1])
    assert not ended.requires_grad
    assert all(weight.grad is None for weight in denoiser.network.parameters())
    assert not any(visit.latents.requires_grad for visit in visits)
