"""Concept Ablation against its equations."""

import pytest
import torch

from efface.concepts import Concept, request
from efface.contracts import silent
from efface.diffusion.denoising import Denoiser
from efface.diffusion.trajectories import stopped
from efface.registry import load
from efface.runs.gradient_runs import GradientRun
from tests.conftest import shared
from tests.methods.trained import TO_LAMP, made, one_step, ran


@pytest.mark.thorough
def test_concept_and_anchor_alike_have_no_loss(tiny_sd1):
    same = request(Concept(name="pistol", prompts=("a",)), anchor="a", keep=["cat"])
    result = one_step("concept_ablation", tiny_sd1, same, optimiser="adam")
    assert result.curves["erase"][0] == pytest.approx(0.0, abs=1e-10)
    assert not result.delta.patches


@pytest.mark.slow
def test_at_first_the_current_network_is_the_frozen_one(tiny_sd1):
    frozen = one_step("concept_ablation", tiny_sd1, TO_LAMP)
    current = one_step("concept_ablation", tiny_sd1, TO_LAMP, teacher="current")
    assert frozen.curves["erase"][0] == current.curves["erase"][0]
    assert frozen.delta.tensors().keys() == current.delta.tensors().keys()
    for name, tensor in frozen.delta.tensors().items():
        assert torch.equal(tensor, current.delta.tensors()[name])
    later = ran("concept_ablation", tiny_sd1, TO_LAMP, keep_weight=0.0)
    drifted = ran("concept_ablation", tiny_sd1, TO_LAMP, keep_weight=0.0, teacher="current")
    assert later.curves["erase"][-1] != drifted.curves["erase"][-1]


@pytest.mark.thorough
def test_noise_is_another_target(tiny_sd1):
    model = one_step("concept_ablation", tiny_sd1, TO_LAMP)
    noise = one_step("concept_ablation", tiny_sd1, TO_LAMP, loss="noise")
    assert noise.curves["erase"][0] > 10 * model.curves["erase"][0]


@pytest.mark.thorough
def test_with_noise_for_a_target_it_is_the_plain_denoising_loss(tiny_sd1):
    """Mean squared error to the noise of sqrt(a) z + sqrt(1 - a) n, by the scheduler's own a."""
    settings = {"loss": "noise", "keep_weight": 0.0, "batch": 16, "steps": 1}
    found = ran("concept_ablation", tiny_sd1, TO_LAMP, **settings).curves["erase"][0]
    method, generator = made("concept_ablation", **settings), torch.Generator().manual_seed(0)
    run = GradientRun(method, tiny_sd1, TO_LAMP, generator=generator, monitor=silent)
    clean, wordings = run.drawn(run.anchors)
    draws = run.draws["batches"]
    some = torch.randint(len(clean), (16,), generator=draws)
    times = torch.randint(1000, (16,), generator=draws)
    noise = torch.randn(16, *clean.shape[1:], generator=draws)
    share = tiny_sd1.scheduler.alphas_cumprod[times].reshape(-1, 1, 1, 1)
    latents = share.sqrt() * clean[some] + (1 - share).sqrt() * noise
    with torch.no_grad():
        asked = run.prompts[wordings[some]].rows
        answer = tiny_sd1.unet(latents, times, encoder_hidden_states=asked)[0]
    assert found == pytest.approx(float((answer - noise).square().mean()), rel=1e-5)


def mixed_diffusion(pipe, clean, noise, times):
    """Gives latents and v = sqrt(a) n - sqrt(1 - a) z, by the scheduler's own a."""
    share = pipe.scheduler.alphas_cumprod[times].reshape(-1, 1, 1, 1)
    latents = share.sqrt() * clean + (1 - share).sqrt() * noise
    return latents, share.sqrt() * noise - (1 - share).sqrt() * clean


def mixed_flow(_, clean, noise, times):
    """Gives latents and the velocity n - z at t / 1000 of the way."""
    share = (times / 1000).reshape(-1, 1, 1, 1)
    return (1 - share) * clean + share * noise, noise - clean


@pytest.mark.parametrize(
    ("toy", "mix"),
    [("sd2_v", mixed_diffusion), pytest.param("sd3", mixed_flow, marks=pytest.mark.slow)],
)
def test_with_noise_for_a_target_others_predict_their_true_velocity(toy, mix):
    pipe = shared(f"tiny_{toy}")
    settings = {"loss": "noise", "keep_weight": 0.0, "batch": 16, "steps": 1}
    settings |= {"parameters": "cross_attention"}
    found = ran("concept_ablation", pipe, TO_LAMP, **settings).curves["erase"][0]
    method, generator = made("concept_ablation", **settings), torch.Generator().manual_seed(0)
    run = GradientRun(method, pipe, TO_LAMP, generator=generator, monitor=silent)
    clean, wordings = run.drawn(run.anchors)
    draws = run.draws["batches"]
    some = torch.randint(len(clean), (16,), generator=draws)
    times = torch.randint(len(run.denoiser.process.noise), (16,), generator=draws)
    noise = torch.randn(16, *clean.shape[1:], generator=draws)
    latents, truth = mix(pipe, clean[some], noise, times)
    with run.denoiser.inference_mode():
        answer = run.denoiser.predict(latents, times.double(), run.prompts[wordings[some]])
    assert found == pytest.approx(float((answer - truth).square().mean()), rel=1e-4)


@pytest.mark.thorough
def test_pictures_of_the_anchor_are_drawn_with_guidance(tiny_sd1):
    """Clean latents are where a sampler ends: each costs two evaluations a step."""
    result = ran("concept_ablation", tiny_sd1, TO_LAMP, steps=3, batch=2, keep_weight=0.0)
    drawn, teacher, student = 2 * 4 * 4, 3 * 2, 3 * 2
    assert result.diagnostics["network_evaluations"] == drawn + teacher + student
    denoiser = Denoiser(tiny_sd1)
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = denoiser.conditions(["lamp", "lamp"])
    ended = stopped(denoiser, asked, start, torch.tensor([4, 3]), steps=4, guidance=6.0)
    assert not torch.allclose(ended[0], start[0])


@pytest.mark.slow
def test_only_the_chosen_group_changes(tiny_sd1):
    keys = ran("concept_ablation", tiny_sd1, TO_LAMP).delta.patches.keys()
    assert keys
    assert all("attn2.to_k" in key or "attn2.to_v" in key for key in keys)


def test_published_rates_and_priors_are_the_papers_for_a_loss_that_is_a_quarter_of_its():
    """Base rate times pictures a step of two cards, and twice that with a prior of weight 1."""
    presets = load("methods", "concept_ablation").presets()
    for name, base, prior in (("style", 2e-6, 0), ("object", 2e-6, 1), ("memorised", 5e-7, 1)):
        found = presets[f"paper-sd14-{name}"]
        assert found.learning_rate == pytest.approx(base * found.batch * (1 + prior))
        assert 4 * found.keep_weight == prior
        assert 4 * found.clip == 1
