"""SLD: its identities, its momentum in closed form, and that it is the released code's."""

import pytest
import torch

from efface import registry
from efface.diffusion.denoising import Denoiser
from efface.diffusion.pictures import pixels_of
from efface.errors import BadRequest
from efface.guides.sld import SafeLatentDiffusion, concept_guidance
from efface.guiding.course import refuse_unfit
from tests.conftest import shared
from tests.guides.visits import courses, noise, read_of, visit_at
from tests.guiding.toys import drawn

U, P, C = noise(3)


def test_presets_are_the_released_table():
    """Warm-up, s_S, lambda, s_m, beta; warm-up as a share of 50 steps."""
    table = {
        "weak": (15, 20, 0.0, 0.0, 0.0),
        "medium": (10, 1000, 0.01, 0.3, 0.4),
        "strong": (7, 2000, 0.025, 0.5, 0.7),
        "max": (0, 5000, 1.0, 0.5, 0.7),
    }
    assert SafeLatentDiffusion() == SafeLatentDiffusion.presets()["medium"]
    for name, expected in table.items():
        p = SafeLatentDiffusion.presets()[name]
        given = (p.warm_up * 50, p.strength, p.threshold, p.momentum_scale, p.momentum_decay)
        assert given == pytest.approx(expected)


def test_elements_are_guided_by_a_share_and_none_beyond_the_threshold():
    g = concept_guidance(U, P, C, strength=20.0, threshold=0.01)
    share = g / (C - U)
    assert bool(((share >= -1e-9) & (share <= 1 + 1e-9)).all())
    assert torch.equal(g[P - C >= 0.01], torch.zeros_like(g[P - C >= 0.01]))


def test_at_most_elements_are_guided_wholly_as_soon_as_they_differ():
    g = concept_guidance(U, P, C, strength=5000.0, threshold=1.0)
    whole = ((P - C).abs() >= 2e-4) & (P - C < 1)
    assert torch.equal(g[whole], (C - U)[whole])


def test_the_concept_itself_as_prompt_is_not_guided_and_an_unknown_concept_neither():
    for concept in (P, U):
        g = concept_guidance(U, P, concept, strength=5000.0, threshold=1.0)
        assert torch.equal(g, torch.zeros_like(g))


def test_wholly_guided_it_is_a_negative_prompt_with_another_anchor():
    """SLD with a share of 1 everywhere less the negative prompt is exactly e_0 - e_c."""
    w, guide = (
        7.5,
        SafeLatentDiffusion(
            concepts=("x",), warm_up=0.0, strength=1e12, threshold=1e12, momentum_scale=0.0
        ),
    )
    (course,) = courses(guide, scale=w)
    safe = course.combine(visit_at(0, U, P), {0: C})
    assert torch.allclose(safe - (C + w * (P - C)), U - C, atol=1e-12)


@pytest.mark.thorough
def test_momentum_is_a_geometric_series_with_the_known_limit():
    """Constant g: v_{i+1} = (b + (1-b) s) v_i + (1-b) g, whose limit guides by g / (1 - s)."""
    guide = SafeLatentDiffusion(
        concepts=("x",), warm_up=0.0, strength=1e12, threshold=1e12, momentum_scale=0.3
    )
    (course,) = courses(guide, scale=2.0, steps=80)
    g, s, b = C - U, 0.3, 0.4
    for index in range(80):
        found = course.combine(visit_at(index, U, P), {0: C})
        v = (1 - b) * g * sum((b + (1 - b) * s) ** power for power in range(index))
        assert torch.allclose(found, U + 2.0 * (P - U - g - s * v), atol=1e-9)
    assert torch.allclose(P - U - (found - U) / 2.0, g / 0.7, atol=1e-9)


def test_before_the_warm_up_is_over_momentum_grows_and_nothing_else_changes():
    guide = SafeLatentDiffusion(concepts=("x",), warm_up=0.5)
    (course,) = courses(guide, steps=4)
    for index in (0, 1):
        assert course.combine(visit_at(index, U, P), {0: C}) is None
    built = course.combine(visit_at(2, U, P), {0: C})
    (fresh,) = courses(guide, steps=4)
    assert not torch.allclose(built, fresh.combine(visit_at(2, U, P), {0: C}))


def test_without_momentum_nothing_is_asked_before_the_warm_up_is_over():
    (weak,) = courses(SafeLatentDiffusion.presets()["weak"], steps=50, concepts=("x",))
    assert [index for index in range(50) if len(weak.wants(index))] == list(range(15, 50))
    (medium,) = courses(SafeLatentDiffusion(concepts=("x",)), steps=50)
    assert all(len(medium.wants(index)) == 1 for index in range(50))


def test_concepts_are_summed_each_with_its_own_share():
    first, second = noise(5)[3:]
    settings = {"warm_up": 0.0, "strength": 20.0, "momentum_scale": 0.0}
    (both,) = courses(SafeLatentDiffusion(concepts=("x", "y"), **settings), scale=2.0)
    found = both.combine(visit_at(0, U, P), {0: first, 1: second})
    parts = [concept_guidance(U, P, c, strength=20.0, threshold=0.01) for c in (first, second)]
    assert torch.allclose(found, U + 2.0 * (P - U - sum(parts)), atol=1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize("preset", ["weak", "medium", "strong", "max"])
def test_it_draws_what_the_released_code_draws(preset):
    from diffusers import StableDiffusionPipelineSafe

    pipe = shared("tiny_sd1")
    guide = SafeLatentDiffusion.presets()[preset]
    ours, _ = drawn(
        Denoiser(pipe),
        [registry.build("guides", "sld", preset=preset, concepts=("a red house",))],
        steps=10,
        guidance=7.5,
    )
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    safe = StableDiffusionPipelineSafe(
        **{name: getattr(pipe, name) for name in names},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    safe.safety_concept = "a red house"
    safe.set_progress_bar_config(disable=True)
    theirs = safe(
        ["a cat", "a dog"],
        generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
        num_inference_steps=10,
        guidance_scale=7.5,
        sld_guidance_scale=guide.strength,
        sld_warmup_steps=read_of(guide.warm_up, 10),
        sld_threshold=guide.threshold,
        sld_momentum_scale=guide.momentum_scale,
        sld_mom_beta=guide.momentum_decay,
        output_type="np",
    ).images
    pixels = pixels_of(pipe, ours).permute(0, 2, 3, 1).detach()
    assert torch.allclose(pixels, torch.from_numpy(theirs), atol=1e-3)
    assert not torch.allclose(pixels, pixels.mean(), atol=0.1), "pictures of one colour"


def test_what_makes_no_sense_is_refused():
    for settings, match in (
        ({"strength": -1.0}, "strength is -1.0; give 0, which is off, or more"),
        ({"momentum_scale": 2.0}, "momentum_scale is 2.0; give a share"),
        ({"warm_up": 1.0}, "a guide works from 1 to 1 of a run"),
    ):
        with pytest.raises(BadRequest, match=match):
            SafeLatentDiffusion(**settings)
    with pytest.raises(BadRequest, match="sld has nothing to steer by"):
        refuse_unfit([SafeLatentDiffusion()])
