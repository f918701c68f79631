"""All but One: the guidance term moves, the unconditional prediction is held."""

import pytest
import torch

from efface.concepts import Concept, request
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from tests.conftest import host
from tests.methods.trained import ONE, PISTOL, TO_LAMP, at_one_latent, made, one_step, ran


def predictions(pipe, prompt):
    denoiser = Denoiser(pipe)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([100.0, 500.0, 900.0])
    with denoiser.inference_mode():
        return denoiser.predict(latents, times, denoiser.conditions([prompt] * 3))


@pytest.mark.thorough
def test_the_first_losses_are_those_of_the_equations(tiny_sd1):
    esd = one_step("esd", tiny_sd1, negative_guidance=1.0, parameters="key_value")
    negate = one_step("all_but_one", tiny_sd1, mode="negate")
    assert negate.curves["guidance"][0] == pytest.approx(esd.curves["erase"][0], rel=1e-5)
    assert negate.curves["drift"][0] == pytest.approx(0.0, abs=1e-10)
    suppress = one_step("all_but_one", tiny_sd1, mode="suppress")
    assert 4 * suppress.curves["guidance"][0] == pytest.approx(
        negate.curves["guidance"][0], rel=1e-5
    )


def test_the_first_loss_of_replacing_is_the_distance_to_the_anchor(tiny_sd1):
    """MSE(e_c, e_lamp): the guidance terms have the same unconditional prediction."""
    run, pool = at_one_latent("all_but_one", tiny_sd1, TO_LAMP)
    gap = (pool.conditional - run.answered(pool, run.anchors)).square().mean()
    first = ran("all_but_one", tiny_sd1, TO_LAMP, **ONE).curves
    assert float(gap) > 1e-5
    assert first["guidance"][0] == pytest.approx(float(gap), rel=1e-3)
    assert first["drift"][0] == pytest.approx(0.0, abs=1e-10)


def test_moving_both_predictions_alike_costs_the_drift_alone():
    """All predictions move by 0.3 with the last layer's bias, so the drift is 0.09 lambda."""
    pipe = host("tiny_sd1")
    settings = {"detach_unconditional": False, "drift_weight": 2.0, "sampling_steps": 4}
    run, pool = at_one_latent("all_but_one", pipe, TO_LAMP, **settings)
    wanted = torch.zeros_like(pool.latents)

    def terms():
        with run.denoiser.inference_mode():
            return run.method._losses(run, pool, wanted, [])

    before = terms()
    with torch.no_grad():
        pipe.unet.conv_out.bias += 0.3
    after = terms()
    assert float(after["guidance"]) == pytest.approx(float(before["guidance"]), rel=1e-4)
    assert float(before["drift"]) == pytest.approx(0.0, abs=1e-9)
    assert float(after["drift"]) == pytest.approx(2.0 * 0.09, rel=1e-4)


@pytest.mark.thorough
def test_replacing_under_the_projection_is_concept_ablation(tiny_sd1):
    """After any steps e_0 is what it was, so both losses are MSE(e_c, e_lamp)."""
    settings = {"constraint": "projection", "learning_rate": 1e-2, "steps": 5}
    delta = ran("all_but_one", tiny_sd1, TO_LAMP, keep_weight=0.0, **settings).delta
    run, pool = at_one_latent("all_but_one", tiny_sd1, TO_LAMP, sampling_steps=4)
    anchored = run.answered(pool, run.anchors)
    with delta.apply(tiny_sd1):
        now = run.answered(pool, run.prompts)
        base = run.answered(pool, run.empty(len(run.wordings)))
    guidance = (now - base - (anchored - pool.unconditional)).square().mean()
    ablation = (now - anchored).square().mean()
    assert (now - pool.conditional).abs().max() > 1e-2
    assert float(guidance) == pytest.approx(float(ablation), rel=1e-3)


@pytest.mark.thorough
def test_an_alternative_equal_to_the_concept_changes_nothing(tiny_sd1):
    same = request(Concept(name="pistol", prompts=("a",)), anchor="a", keep=["cat"])
    result = one_step("all_but_one", tiny_sd1, same)
    assert result.curves["loss"][0] == pytest.approx(0.0, abs=1e-10)


@pytest.mark.slow
def test_the_projection_holds_the_empty_prompt_whatever_is_trained(tiny_sd1):
    before = predictions(tiny_sd1, "")
    settings = {"mode": "negate", "keep_weight": 0.0, "learning_rate": 1e-2}
    held = ran("all_but_one", tiny_sd1, constraint="projection", **settings)
    with held.delta.apply(tiny_sd1):
        assert torch.allclose(predictions(tiny_sd1, ""), before, atol=2e-5)
        assert not torch.allclose(predictions(tiny_sd1, "pistol"), before, atol=1e-2)
    free = ran("all_but_one", tiny_sd1, constraint="none", **settings)
    with free.delta.apply(tiny_sd1):
        assert not torch.allclose(predictions(tiny_sd1, ""), before, atol=1e-2)


@pytest.mark.slow
def test_the_penalty_holds_it_nearly(tiny_sd1):
    before = predictions(tiny_sd1, "")

    def drift(**settings):
        delta = ran("all_but_one", tiny_sd1, mode="negate", keep_weight=0.0, **settings).delta
        with delta.apply(tiny_sd1):
            return float((predictions(tiny_sd1, "") - before).norm())

    assert drift(constraint="penalty", drift_weight=10.0) < 0.7 * drift(constraint="none")


@pytest.mark.slow
def test_detaching_sends_no_gradient_through_the_unconditional_branch(tiny_sd1):
    """With both branches open, moving both together is free: the step differs."""
    settings = {"mode": "negate", "constraint": "none"}
    detached = one_step("all_but_one", tiny_sd1, **settings)
    both = one_step("all_but_one", tiny_sd1, detach_unconditional=False, **settings)
    assert detached.curves["guidance"][0] == pytest.approx(both.curves["guidance"][0], rel=1e-6)
    assert detached.delta.id != both.delta.id
    esd = one_step("esd", tiny_sd1, parameters="key_value", learning_rate=2e-3)
    for name, tensor in esd.delta.tensors().items():
        assert torch.allclose(tensor, detached.delta.tensors()[name], atol=1e-5), name


def test_impossible_settings_are_refused():
    with pytest.raises(BadRequest, match="keys and values"):
        made("all_but_one", constraint="projection", parameters="unet")
    with pytest.raises(BadRequest, match="energy"):
        made("all_but_one", energy=0.0)
    with pytest.raises(BadRequest, match="saliency mask would undo the projection"):
        made("all_but_one", constraint="projection", saliency=0.5)
    made("all_but_one", constraint="penalty", saliency=0.5)


@pytest.mark.slow
def test_with_an_anchor_the_term_becomes_the_anchors(tiny_sd1):
    settings = {"keep_weight": 0.0, "steps": 60, "parameters": "unet", "learning_rate": 1e-3}
    result = ran("all_but_one", tiny_sd1, TO_LAMP, **settings)
    assert result.curves["guidance"][-1] < 0.5 * result.curves["guidance"][0]
    assert PISTOL.erasures[0].anchor is None
