"""SEGA: its identities, which elements it moves, and that it is the released code's."""

import math
from itertools import pairwise

import pytest
import torch

from efface.diffusion.denoising import Denoiser
from efface.diffusion.noise import guided
from efface.errors import BadRequest
from efface.guides.sega import SemanticGuidance, largest
from efface.guiding.course import refuse_unfit
from tests.conftest import shared
from tests.guides.visits import W, courses, noise, visit_at
from tests.guiding.toys import drawn

U, P, C, D = noise(4)
AT_ONCE = {"starts": (0.0,), "momentum_scale": 0.0}


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 0.95, 0.99])
def test_the_mask_is_that_of_the_quantile(threshold):
    values = torch.randn((2, 4, 64, 64), generator=torch.Generator().manual_seed(0))
    flat = values.abs().flatten(2)
    quantile = torch.quantile(flat, threshold, dim=2)[:, :, None, None]
    mask = largest(values, threshold)
    assert torch.equal(mask, values.abs() >= quantile)
    kept = 4096 - math.ceil(threshold * 4095)
    assert mask.flatten(2).sum(2).unique().tolist() == [kept]


def test_the_mask_is_of_each_channel_and_does_not_change_with_the_scale():
    values = C - U
    assert torch.equal(largest(values, 0.9), largest(2 * values, 0.9))
    louder = values * torch.tensor([1.0, 10.0, 100.0, 1000.0])[None, :, None, None]
    assert torch.equal(largest(values, 0.9), largest(louder, 0.9))


def test_all_elements_of_one_removed_concept_are_guidance_away_from_it():
    """With no threshold, no momentum and the scale of guidance: e_0 + w (e_p - e_c)."""
    guide = SemanticGuidance(remove=("x",), scales=(W,), thresholds=(0.0,), **AT_ONCE)
    (course,) = courses(guide)
    assert torch.allclose(course.combine(visit_at(0, U, P), {0: C}), U + W * (P - C), atol=1e-12)


def test_adding_is_removing_with_the_other_sign():
    plain = guided(U, P, W)
    added, removed = (
        courses(SemanticGuidance(**{way: ("x",)}, **AT_ONCE))[0].combine(visit_at(0, U, P), {0: C})
        for way in ("add", "remove")
    )
    assert torch.allclose(added - plain, plain - removed, atol=1e-12)
    assert not torch.allclose(added, plain)


def test_a_concept_that_the_model_does_not_know_changes_nothing():
    (course,) = courses(SemanticGuidance(remove=("x",), **AT_ONCE))
    assert torch.equal(course.combine(visit_at(0, U, P), {0: U}), guided(U, P, W))


def test_each_concept_enters_when_its_own_warm_up_is_over_without_a_jump():
    """What the first gives does not change when the second joins; the sum is of both."""
    settings = {"momentum_scale": 0.3, "thresholds": (0.5,)}
    (both,) = courses(SemanticGuidance(add=("x", "y"), starts=(0.2, 0.5), **settings))
    (one,) = courses(SemanticGuidance(add=("x",), starts=(0.2,), **settings))
    (two,) = courses(SemanticGuidance(add=("y",), starts=(0.5,), **settings))
    for index in range(10):
        visit = visit_at(index, U, P)
        whole = both.combine(visit, {0: C, 1: D})
        parts = [one.combine(visit, {0: C}), two.combine(visit, {0: D})]
        moved = sum(part - visit.prediction for part in parts if part is not None)
        if index < 2:
            assert whole is None
        else:
            assert torch.allclose(whole, visit.prediction + moved, atol=1e-12)


def test_a_concept_is_asked_only_where_it_counts():
    plain = {"steps": 10}
    (course,) = courses(
        SemanticGuidance(add=("x",), starts=(0.2,), stops=(0.6,), momentum_scale=0.0), **plain
    )
    assert [index for index in range(10) if course.wants(index)] == [2, 3, 4, 5]
    (course,) = courses(SemanticGuidance(add=("x",), starts=(0.2,), stops=(0.6,)), **plain)
    assert [index for index in range(10) if course.wants(index)] == [0, 1, 2, 3, 4, 5]


def test_after_its_end_only_its_momentum_is_left_and_fades():
    (course,) = courses(SemanticGuidance(add=("x",), starts=(0.0,), stops=(0.2,)))
    left = []
    for index in range(8):
        visit = visit_at(index, U, P)
        found = course.combine(visit, {0: C} if index < 2 else {})
        left.append(float((found - visit.prediction).norm()))
    assert all(later < 0.5 * earlier for earlier, later in pairwise(left[2:]))


@pytest.mark.thorough
@pytest.mark.parametrize("stop", [None, 6])
def test_it_draws_what_the_released_code_draws(stop):
    from diffusers import SemanticStableDiffusionPipeline

    pipe = shared("tiny_sd1")
    guide = SemanticGuidance(
        remove=("a red house",),
        add=("a dog",),
        scales=(5.0, 4.0),
        thresholds=(0.9, 0.8),
        stops=(1.0 if stop is None else stop / 10,),
        momentum_scale=0.3,
        momentum_decay=0.6,
    )
    ours, _ = drawn(Denoiser(pipe), [guide], prompts=["a cat"], seeds=[0], steps=10, guidance=7.5)
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    semantic = SemanticStableDiffusionPipeline(
        **{name: getattr(pipe, name) for name in names},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    semantic.set_progress_bar_config(disable=True)
    theirs = semantic(
        "a cat",
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=10,
        guidance_scale=7.5,
        editing_prompt=["a red house", "a dog"],
        reverse_editing_direction=[True, False],
        edit_guidance_scale=[5.0, 4.0],
        edit_threshold=[0.9, 0.8],
        edit_warmup_steps=2,
        edit_cooldown_steps=stop,
        edit_momentum_scale=0.3,
        edit_mom_beta=0.6,
        output_type="latent",
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


def test_what_makes_no_sense_is_refused():
    for settings, match in (
        ({"scales": (1.0, 2.0)}, "scales has 2 numbers and sega 0 concepts"),
        ({"add": ("x",), "starts": (0.1, 0.2)}, "starts has 2 numbers and sega 1 concepts"),
        ({"thresholds": (1.0,)}, "a threshold is 1.0; give a share, 0 to below 1"),
        ({"starts": (0.5,), "stops": (0.2,)}, "a guide works from 0.5 to 0.2 of a run"),
        ({"momentum_decay": -1.0}, "momentum_decay is -1.0; give a share"),
    ):
        with pytest.raises(BadRequest, match=match):
            SemanticGuidance(**settings)
    with pytest.raises(BadRequest, match="sega has nothing to steer by; give it remove or add"):
        refuse_unfit([SemanticGuidance()])
