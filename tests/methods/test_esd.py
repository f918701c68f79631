"""ESD against its equations: targets, first losses, groups of parameters."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from efface.concepts import request
from efface.core.denoising import Denoiser
from efface.core.trajectories import sampled_pool
from efface.errors import BadRequest, NothingChanged
from efface.models.architectures import members
from tests.methods.trained import PISTOL, TO_LAMP, one_step, ran


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


def test_the_first_loss_is_the_gap_times_one_plus_eta_squared(tiny_sd1):
    plain = one_step("esd", tiny_sd1, negative_guidance=0.0).curves["erase"][0]
    for eta in (1.0, 3.0):
        again = one_step("esd", tiny_sd1, negative_guidance=eta).curves["erase"][0]
        assert again == pytest.approx((1 + eta) ** 2 * plain, rel=1e-4)
    gap = sum(mean_gap(tiny_sd1, p) for p in ("pistol", "a photo of a pistol")) / 2
    assert plain == pytest.approx(gap, rel=0.5)


def test_the_newer_form_is_the_papers_with_one_less():
    """e_f - eta' (e_c - e_0) with e_f = e_c is e_0 - (eta' - 1)(e_c - e_0)."""
    from efface.core.noise import negated

    without, with_prompt = torch.randn(
        2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    newer = negated(with_prompt, without, with_prompt, 2.5)
    assert torch.allclose(newer, negated(without, without, with_prompt, 1.5), atol=1e-14)


def test_an_anchor_is_where_the_target_starts(tiny_sd1):
    at_anchor = one_step("esd", tiny_sd1, TO_LAMP, negative_guidance=0.0)
    at_nothing = one_step("esd", tiny_sd1, PISTOL, negative_guidance=0.0)
    assert at_anchor.curves["erase"][0] != pytest.approx(at_nothing.curves["erase"][0], rel=1e-3)


def test_another_prompt_may_lose_the_concept(tiny_sd1):
    result = one_step("esd", tiny_sd1, erase_from="a house", negative_guidance=0.0)
    assert result.curves["erase"][0] == pytest.approx(0.0, abs=1e-9)
    away = one_step("esd", tiny_sd1, erase_from="a house", negative_guidance=1.0)
    assert away.curves["erase"][0] > 1e-4


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
    "unet": (686, 859_520_964),
}


def test_groups_have_the_published_sizes():
    class Pipe:
        with torch.device("meta"):
            unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)

    for role, (tensors, values) in COUNTS.items():
        found = members(Pipe, role)
        assert (len(found), sum(weight.numel() for weight in found.values())) == (tensors, values)


def test_students_latents_follow_the_model_in_training(tiny_sd1):
    base = ran("esd", tiny_sd1, steps=4)
    student = ran("esd", tiny_sd1, steps=4, latents="student")
    assert student.diagnostics["network_evaluations"] > base.diagnostics["network_evaluations"]
    assert student.delta.id != base.delta.id


def test_a_pool_costs_what_its_sampling_costs_and_no_teacher(tiny_sd1):
    """4 trajectories of 4 steps with guidance, then one sample a step and nothing else."""
    result = ran("esd", tiny_sd1, steps=7, batch=1, keep_weight=0.0)
    assert result.diagnostics["network_evaluations"] == 2 * 4 * 4 + 7


def test_a_concept_equal_to_the_empty_prompt_is_refused(tiny_sd1):
    import efface
    from efface.concepts import Concept

    blank = Concept(name="pistol", prompts=("a",))
    wanted = request(blank, anchor=Concept(name="a"), keep=["cat"])
    settings = {"steps": 3, "trajectories": 2, "sampling_steps": 3, "negative_guidance": 0.0}
    with pytest.raises((BadRequest, NothingChanged)):
        efface.erase(tiny_sd1, wanted, method="esd", **settings)
