"""Predictions of three kinds: guidance, negation, clean latents and truths agree between them."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from efface.diffusion.noise import NoiseProcess, guided
from efface.errors import BadModel


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def process(kind):
    if kind == "flow_prediction":
        return NoiseProcess.of(FlowMatchEulerDiscreteScheduler())
    return NoiseProcess.of(DDIMScheduler(prediction_type=kind))


KINDS = ("epsilon", "v_prediction", "flow_prediction")
TIMES = torch.tensor([1.0, 400.0, 900.0], dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_gives_the_clean_latents_back(kind):
    clean, noise = drawn(3, 4, 2, 2), drawn(3, 4, 2, 2, seed=1)
    path = process(kind)
    latents = path.noised(clean, noise, TIMES)
    truth = path.truth(clean, noise, TIMES)
    assert torch.allclose(path.clean(latents, truth, TIMES), clean, atol=1e-9)
    assert not torch.allclose(path.clean(latents, truth + 0.1, TIMES), clean, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_mixing_agrees_with_the_scheduler(kind):
    clean, noise = drawn(3, 4, 2, 2), drawn(3, 4, 2, 2, seed=1)
    ours = process(kind).noised(clean, noise, TIMES)
    if kind == "flow_prediction":
        share = (TIMES / 1000)[:, None, None, None]
        assert torch.allclose(ours, share * noise + (1 - share) * clean)
        return
    theirs = DDIMScheduler(prediction_type=kind).add_noise(clean, noise, TIMES.long())
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_negation_means_the_same_clean_latents_for_every_kind(kind):
    """The clean latents of a negated prediction are the negated clean latents."""
    latents = drawn(3, 4, 2, 2)
    path = process(kind)
    without, with_prompt = drawn(3, 4, 2, 2, seed=2), drawn(3, 4, 2, 2, seed=3)
    away = path.clean(latents, guided(without, with_prompt, -1.5), TIMES)
    ends = [path.clean(latents, each, TIMES) for each in (without, with_prompt)]
    assert torch.allclose(away, guided(*ends, -1.5), atol=1e-9)


def test_guidance_and_negation_meet_at_their_corners():
    without, with_prompt = drawn(2, 3), drawn(2, 3, seed=1)
    assert torch.equal(guided(without, with_prompt, 0.0), without)
    assert torch.allclose(guided(without, with_prompt, 1.0), with_prompt)
    assert torch.allclose(guided(without, with_prompt, -1.0), 2 * without - with_prompt)


def test_a_scheduler_of_clean_samples_is_refused():
    with pytest.raises(BadModel, match="'sample'"):
        NoiseProcess.of(DDIMScheduler(prediction_type="sample"))
