"""ESD against its equations: targets, first losses, groups of parameters."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from efface.concepts import request
from efface.contracts import silent
from efface.diffusion.denoising import Denoiser
from efface.diffusion.trajectories import sampled_pool
from efface.errors import NothingChanged
from efface.hosts.roles import members
from efface.runs.gradient_runs import GradientRun
from tests.conftest import host
from tests.methods.trained import (
    ONE,
    PISTOL,
    TO_LAMP,
    Nameless,
    at_one_latent,
    gradients_at,
    made,
    one_step,
    ran,
)

FEW = {"batch": 1, "trajectories": 1, "sampling_steps": 1}
"""One latent, so that every batch is known."""


def mean_gap(pipe, prompt, steps=4):
    """Mean squared difference that a prompt makes on the frozen model's own trajectories."""
    denoiser = Denoiser(pipe)
    pool = sampled_pool(
        denoiser,
        denoiser.conditions([prompt]),
        torch.zeros(64, dtype=torch.long),
        steps=steps,
        guidance=3.0,
        generator=torch.Generator().manual_seed(5),
    )
    return float((pool.conditional - pool.unconditional).square().mean())


@pytest.mark.thorough
def test_the_first_loss_is_the_gap_times_one_plus_eta_squared(tiny_sd1):
    plain = one_step("esd", tiny_sd1, negative_guidance=0.0).curves["erase"][0]
    for eta in (1.0, 3.0):
        again = one_step("esd", tiny_sd1, negative_guidance=eta).curves["erase"][0]
        assert again == pytest.approx((1 + eta) ** 2 * plain, rel=1e-4)
    gap = sum(mean_gap(tiny_sd1, p) for p in ("pistol", "a photo of a pistol")) / 2
    assert plain == pytest.approx(gap, rel=0.5)


@pytest.mark.thorough
def test_an_anchor_is_where_the_target_starts(tiny_sd1):
    at_anchor = one_step("esd", tiny_sd1, TO_LAMP, negative_guidance=0.0)
    at_nothing = one_step("esd", tiny_sd1, PISTOL, negative_guidance=0.0)
    assert at_anchor.curves["erase"][0] != pytest.approx(at_nothing.curves["erase"][0], rel=1e-3)


@pytest.mark.thorough
def test_another_prompt_may_lose_the_concept(tiny_sd1):
    result = one_step("esd", tiny_sd1, erase_from="a house", negative_guidance=0.0)
    assert result.curves["erase"][0] == pytest.approx(0.0, abs=1e-9)
    away = one_step("esd", tiny_sd1, erase_from="a house", negative_guidance=1.0)
    assert away.curves["erase"][0] > 1e-4


def test_latents_are_of_the_prompt_that_loses_the_concept(tiny_sd1):
    """As in the newer code: the target is e_f - eta (e_c - e_0) where f's trajectories come by."""
    result = one_step("esd", tiny_sd1, erase_from="a house", negative_guidance=2.0, **FEW)
    draws = torch.Generator().manual_seed(0)
    run = GradientRun(made("esd", **ONE), tiny_sd1, PISTOL, generator=draws, monitor=silent)
    followed = run.denoiser.conditions(["a house"]).repeated(len(run.wordings))
    pool = run.pool(followed)
    with run.denoiser.inference_mode():
        e_f = run.denoiser.predict(pool.latents, pool.times, followed[pool.prompt_index])
        e_c = run.denoiser.predict(pool.latents, pool.times, run.prompts[pool.prompt_index])
    assert torch.allclose(pool.conditional, e_f, atol=1e-6)
    expected = float((2.0 * (e_c - pool.unconditional)).square().mean())
    assert result.curves["erase"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.thorough
def test_the_empty_prompt_of_xl_may_be_the_encoded_one():
    """Its pipeline reads zeros in its place; the released code for XL encodes it."""
    pipe = host("tiny_sdxl")
    denoiser = Denoiser(pipe)
    blank, zeros = (denoiser.conditions([text]) for text in (" ", ""))
    assert not zeros.rows.any()
    assert blank.rows.norm() > 1.0
    encoded = pipe.encode_prompt("", do_classifier_free_guidance=False)
    assert torch.allclose(blank.rows, encoded[0], atol=1e-5)
    assert torch.allclose(blank.pooled, encoded[2], atol=1e-5)
    settings = FEW | {"negative_guidance": 0.0}
    first = {
        rule: one_step("esd", pipe, null_prompt=rule, **settings).curves["erase"][0]
        for rule in ("pipeline", "encoded")
    }
    assert first["encoded"] != pytest.approx(first["pipeline"], rel=1e-3)


def test_published_presets_name_the_concept_alone(tiny_sd1):
    presets = made("esd").presets()
    for name, preset in presets.items():
        run = GradientRun(preset, tiny_sd1, PISTOL, generator=torch.Generator(), monitor=silent)
        prompts = [wording.prompt for wording in run.wordings]
        assert (prompts == ["pistol"]) == (name != "emoji")
    assert presets["released-sdxl-2025"].null_prompt == "encoded"


@pytest.mark.slow
def test_what_is_not_chosen_stays(tiny_sd1):
    keys = ran("esd", tiny_sd1, parameters="key_value").delta.patches.keys()
    assert keys == members(tiny_sd1, "key_value").keys()
    rest = ran("esd", tiny_sd1, parameters="not_cross_attention").delta.patches.keys()
    assert not any("attn2" in key or "norm" in key for key in rest)


COUNTS = {
    "key_value": (32, 19_169_280),
    "cross_attention": (80, 43_962_560),
    "self_attention": (80, 49_574_080),
    "not_cross_attention": (388, 815_358_084),
    "not_cross_attention_paper": (598, 813_495_680),
    "layers": (468, 859_320_644),
    "attention": (160, 93_536_640),
    "unet": (686, 859_520_964),
}


def test_groups_have_the_published_sizes():
    class Pipe:
        with torch.device("meta"):
            unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)

    for role, (tensors, values) in COUNTS.items():
        found = members(Pipe, role)
        assert (len(found), sum(weight.numel() for weight in found.values())) == (tensors, values)


def test_groups_of_xl_leave_out_embeddings_and_all_outside_the_blocks():
    network = host("tiny_sdxl").unet
    named = {
        f"unet/{path}.{name}"
        for path, layer in network.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
        and "block" in path
        and "emb" not in path
        for name, _ in layer.named_parameters()
    }
    pipe = host("tiny_sdxl")
    assert members(pipe, "layers_xl").keys() == named
    without = {key for key in named if "attn2" not in key}
    assert members(pipe, "not_cross_attention_xl").keys() == without
    every = members(pipe, "not_cross_attention").keys()
    assert {key.split(".")[0] for key in every - without} >= {"unet/conv_in", "unet/conv_out"}


@pytest.mark.thorough
def test_students_latents_follow_the_model_in_training(tiny_sd1):
    base = ran("esd", tiny_sd1, steps=4)
    student = ran("esd", tiny_sd1, steps=4, latents="student")
    assert student.diagnostics["network_evaluations"] > base.diagnostics["network_evaluations"]
    assert student.delta.id != base.delta.id


def test_a_pool_costs_what_its_sampling_costs_and_no_teacher(tiny_sd1):
    """4 trajectories of 4 steps with guidance, then one sample a step and nothing else."""
    result = ran("esd", tiny_sd1, steps=7, batch=1, keep_weight=0.0)
    assert result.diagnostics["network_evaluations"] == 2 * 4 * 4 + 7


def test_the_gradient_of_the_last_layer_is_the_one_derived_by_hand(tiny_sd1):
    """Its output is W h + b, so the loss has gradients 2 r / N for b and (2 r / N) h^T for W.

    N values have the residual r = e_c - (e_0 - eta (e_c - e_0)), which is (1 + eta) (e_c - e_0)
    before the first step; h are the patches that the convolution reads.
    """
    run, pool = at_one_latent("esd", tiny_sd1, parameters="layers")
    layer, read = tiny_sd1.unet.conv_out, []
    handle = layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with run.denoiser.inference_mode():
        run.denoiser.predict(pool.latents, pool.times, run.prompts[pool.prompt_index])
    handle.remove()
    slope = 2 * 3.0 * (pool.conditional - pool.unconditional) / pool.conditional.numel()
    patches = torch.nn.functional.unfold(read[0], layer.kernel_size, padding=layer.padding)
    with gradients_at(layer.weight) as weights, gradients_at(layer.bias) as biases:
        ran("esd", tiny_sd1, **ONE, parameters="layers", negative_guidance=2.0)
    assert torch.allclose(biases[0], slope.sum((0, 2, 3)), rtol=1e-3, atol=1e-8)
    by_hand = slope[0].flatten(1) @ patches[0].T
    assert by_hand.abs().max() > 1e-4
    assert torch.allclose(weights[0].flatten(1), by_hand, rtol=1e-3, atol=1e-7)


@pytest.mark.thorough
@pytest.mark.parametrize("erase_from", ["", "a house"])
def test_the_empty_prompt_has_nothing_to_lose(tiny_sd1, monkeypatch, erase_from):
    """e_c is e_0 then, so the target is what is predicted already: no loss and no gradient."""
    settings = {"negative_guidance": 3.0, "erase_from": erase_from}
    bias = tiny_sd1.unet.up_blocks[-1].attentions[0].transformer_blocks[0].attn2.to_out[0].bias

    def gradient():
        with gradients_at(bias) as seen:
            loss = one_step("esd", tiny_sd1, **settings).curves["erase"][0]
        return loss, float(seen[0].norm())

    usual_loss, usual = gradient()
    monkeypatch.setattr("efface.methods.esd.GradientRun", Nameless)
    loss, left = gradient()
    assert loss == pytest.approx(0.0, abs=1e-10)
    assert usual_loss > 1e-4
    assert left < 1e-3 * usual


def test_an_anchor_that_the_prompt_says_already_leaves_nothing_to_change(tiny_sd1):
    import efface
    from efface.concepts import Concept

    blank = Concept(name="pistol", prompts=("a",))
    wanted = request(blank, anchor=Concept(name="a"), keep=["cat"])
    settings = {"steps": 3, "trajectories": 2, "sampling_steps": 3, "negative_guidance": 0.0}
    with pytest.raises(NothingChanged):
        efface.erase(tiny_sd1, wanted, method="esd", **settings)
