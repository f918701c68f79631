"""TRCE's and RealEra's second parts, alone and on top of their closed forms."""

import pytest
import torch

import efface
from efface import registry
from efface.closed_form.neighbours import Shell
from efface.concepts import Concept, request
from efface.deltas.application import unedited
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.methods.realera_noise import _around
from tests.cases import TRAINED
from tests.conftest import host
from tests.methods.trained import PISTOL, TO_LAMP, at_one_latent, gradients_at, made, one_step, ran


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_hinge_is_affine_in_the_prediction_while_it_is_active():
    """Its gradient is 2 (unsafe - safe) / values, whatever the prediction."""
    method = made("trce_vision", margin=100.0, slope=3.0)
    safe, unsafe = drawn(1, 2, 3, 3), drawn(1, 2, 3, 3, seed=1)
    for seed in (2, 3):
        prediction = drawn(1, 2, 3, 3, seed=seed).requires_grad_()
        method.hinge(prediction, safe, unsafe).backward()
        assert torch.allclose(prediction.grad, 3.0 * 2 * (unsafe - safe) / 18)


def test_the_hinge_rests_once_the_safe_side_is_near_enough():
    method = made("trce_vision", margin=0.01)
    safe, unsafe = drawn(1, 2, 3, 3), drawn(1, 2, 3, 3, seed=1)
    prediction = safe.clone().requires_grad_()
    method.hinge(prediction, safe, unsafe).backward()
    assert not prediction.grad.any()


@pytest.mark.slow
def test_safe_and_unsafe_alike_leave_the_margin_and_no_gradient(tiny_sd1):
    same = request(Concept(name="pistol", prompts=("a",)), anchor="a", keep=["cat"])
    settings = {"margin": 0.5, "slope": 2.0, "hold_weight": 0.0, "parameters": "unet"}
    weight = tiny_sd1.unet.conv_out.weight
    with gradients_at(weight) as alike:
        result = one_step("trce_vision", tiny_sd1, same, **settings)
    assert result.curves["steer"][0] == pytest.approx(1.0, abs=1e-6)
    with gradients_at(weight) as differ:
        one_step("trce_vision", tiny_sd1, TO_LAMP, **settings)
    assert alike[0].norm() < 1e-3 * differ[0].norm()


@pytest.mark.parametrize(("margin", "moves"), [(0.0, False), (100.0, True)])
def test_a_safe_prediction_near_enough_moves_no_weight(tiny_sd1, margin, moves):
    """The model's own prediction for a prompt as the safe side, and a far one as the unsafe."""
    run, pool = at_one_latent("esd", tiny_sd1)
    method = made("trce_vision", margin=margin)
    with gradients_at(tiny_sd1.unet.conv_out.weight) as seen:
        now = run.denoiser.predict(pool.latents, pool.times, run.prompts[pool.prompt_index])
        method.hinge(now, pool.conditional, pool.conditional + 1).backward()
    assert bool(seen[0].any()) == moves
    tiny_sd1.unet.zero_grad(set_to_none=True)


@pytest.mark.thorough
def test_what_is_held_starts_at_zero(tiny_sd1):
    result = one_step("trce_vision", tiny_sd1, TO_LAMP)
    assert result.curves["hold"][0] == pytest.approx(0.0, abs=1e-8)


@pytest.mark.slow
def test_only_attention_but_not_what_reads_text_is_trained(tiny_sd1):
    for group, wanted in (("early_attention", "attn1."), ("queries", "to_q")):
        keys = ran("trce_vision", tiny_sd1, TO_LAMP, parameters=group).delta.patches.keys()
        assert keys
        assert all(wanted in key or "attn2.to_q" in key for key in keys)
        assert not any("attn2.to_k" in key or "attn2.to_v" in key for key in keys)


@pytest.mark.thorough
def test_unedited_gives_the_base_while_deltas_are_applied(tiny_sd1):
    before = {name: w.detach().clone() for name, w in tiny_sd1.unet.named_parameters()}
    first = (
        registry.build("methods", "trce")
        .erase(tiny_sd1, TO_LAMP, generator=torch.Generator())
        .delta
    )
    second = ran("esd", tiny_sd1, steps=2).delta
    with first.apply(tiny_sd1), second.apply(tiny_sd1):
        edited = {name: w.detach().clone() for name, w in tiny_sd1.unet.named_parameters()}
        with unedited(tiny_sd1):
            for name, weight in tiny_sd1.unet.named_parameters():
                assert torch.equal(weight, before[name])
        for name, weight in tiny_sd1.unet.named_parameters():
            assert torch.equal(weight, edited[name])
    for name, weight in tiny_sd1.unet.named_parameters():
        assert torch.equal(weight, before[name])


@pytest.mark.thorough
@pytest.mark.parametrize(
    "pair",
    [pytest.param(("trce", "trce_vision"), marks=pytest.mark.slow), ("realera", "realera_noise")],
)
def test_both_stages_make_one_delta_that_holds_both(tiny_sd1, pair):
    stages = [registry.build("methods", pair[0]), made(pair[1], steps=4)]
    both = efface.erase(tiny_sd1, TO_LAMP, method=stages)
    assert both.delta.provenance.method == "+".join(pair)
    assert set(both.delta.provenance.settings) == set(pair)
    assert len(both.delta.provenance.parts) == 2
    assert both.delta.provenance.parents == ()
    first = efface.erase(tiny_sd1, TO_LAMP, method=stages[0])
    with first.delta.apply(tiny_sd1):
        second = efface.erase(tiny_sd1, TO_LAMP, method=stages[1])
        with second.delta.apply(tiny_sd1):
            wanted = {n: w.detach().clone() for n, w in tiny_sd1.unet.named_parameters()}
    with both.delta.apply(tiny_sd1):
        for name, weight in tiny_sd1.unet.named_parameters():
            assert torch.allclose(weight, wanted[name], atol=1e-5), name


@pytest.mark.slow
def test_the_unsafe_goal_comes_from_the_unedited_model(tiny_sd1):
    """On top of a closed form that maps the concept away, the concept is still what is left."""
    first = (
        registry.build("methods", "trce", keep_weight=1e-6)
        .erase(tiny_sd1, TO_LAMP, generator=torch.Generator())
        .delta
    )
    alone = one_step("trce_vision", tiny_sd1, TO_LAMP, margin=0.0)
    with first.apply(tiny_sd1):
        after = one_step("trce_vision", tiny_sd1, TO_LAMP, margin=0.0)
    assert 0 <= after.curves["steer"][0] < alone.curves["steer"][0]


def test_stages_share_no_settings(tiny_sd1):
    with pytest.raises(BadRequest, match="do not share settings"):
        efface.erase(tiny_sd1, PISTOL, method="uce+esd", steps=3)


@pytest.mark.thorough
def test_low_rank_layers_start_where_the_model_is(tiny_sd1):
    """Near points ask for the anchor from the start; points beyond ask for nothing yet."""
    result = one_step("realera_noise", tiny_sd1, TO_LAMP)
    assert result.curves["beyond"][0] == pytest.approx(0.0, abs=1e-8)
    assert result.curves["near"][0] > 1e-5


def test_noise_is_in_proportion_to_each_encoders_part_of_a_row():
    """Two encoders stand side by side in XL: both parts turn by the same angle, at full length."""
    denoiser = Denoiser(host("tiny_sdxl"))
    own, draws = denoiser.conditions(["pistol", "a cat"]), torch.Generator().manual_seed(0)
    moved = _around(denoiser, own, Shell(0.5, 0.85), draws)
    assert torch.equal(moved.rows[:, 0], own.rows[:, 0])
    before, after = (each.rows[:, 1:].split(denoiser.text.blocks, dim=-1) for each in (own, moved))
    cosines = [torch.cosine_similarity(a, b, dim=-1) for a, b in zip(before, after, strict=True)]
    assert len(cosines) == 2
    assert torch.allclose(*cosines, atol=1e-4)
    assert 0.5 < cosines[0].min() < 0.6 < 0.75 < cosines[0].max() < 0.85
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a.norm(dim=-1), b.norm(dim=-1), rtol=1e-4)


@pytest.mark.thorough
def test_a_concept_that_is_its_anchor_needs_nothing_at_its_own_place(tiny_sd1):
    same = request(Concept(name="pistol", prompts=("a",)), anchor="a", keep=["cat"])
    settings = {"near": (1.0, 1.0), "near_distance": 0.001}
    result = one_step("realera_noise", tiny_sd1, same, **settings)
    assert result.curves["near"][0] == pytest.approx(0.0, abs=1e-7)


def test_impossible_settings_are_refused():
    with pytest.raises(BadRequest, match="distance must be at least"):
        made("realera_noise", near=(0.1, 0.2), near_distance=0.1)
    with pytest.raises(BadRequest, match="early"):
        made("trce_vision", early=1.5)
    assert TRAINED["steps"] > 0
