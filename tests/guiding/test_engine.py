"""The engine: what is asked in which batch, what is not asked, and what it refuses."""

from dataclasses import dataclass

import diffusers
import numpy as np
import pytest
import torch

import efface
from efface import registry
from efface.contracts import Guide
from efface.diffusion.denoising import Denoiser
from efface.diffusion.trajectories import first_noise
from efface.errors import BadRequest
from efface.guiding.course import Course
from efface.guiding.engine import sampled
from tests.conftest import shared
from tests.deltas.test_gates import gated
from tests.guiding.toys import drawn, erased

NEGATIVE = registry.build("guides", "negative", text="a red house")


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_with_a_negative_prompt_it_draws_what_the_pipeline_draws(family):
    """Also with the scheduler's own scale of latents, which SDXL's sampler has."""
    pipe = shared(f"tiny_{family}")
    latents, _ = drawn(Denoiser(pipe), [NEGATIVE])
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        ["a cat", "a dog"],
        negative_prompt=["a red house"] * 2,
        generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
        num_inference_steps=4,
        guidance_scale=3.0,
        height=8 * pipe.vae_scale_factor,
        width=8 * pipe.vae_scale_factor,
        output_type="latent",
    ).images
    assert torch.allclose(latents, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_what_the_base_predicts_is_asked_without_the_delta_and_it_is_put_back():
    pipe, delta = erased()
    seen = []
    with delta.apply(pipe):
        weights = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
        denoiser = Denoiser(pipe)
        predict = denoiser.predict

        def watched(*given):
            same = all(torch.equal(v, weights[k]) for k, v in pipe.unet.state_dict().items())
            seen.append((len(given[0]), same))
            return predict(*given)

        denoiser.predict = watched
        drawn(denoiser, [NEGATIVE])
        assert all(torch.equal(v, weights[k]) for k, v in pipe.unet.state_dict().items())
    # The prompt alone, the base about the text, and once the empty prompt to compare with.
    assert seen == [(2, True), (2, False), (2, True), *[(2, True), (2, False)] * 3]


@pytest.mark.thorough
def test_the_edited_model_is_asked_in_one_batch_and_gives_another_picture():
    pipe, delta = erased()
    with delta.apply(pipe):
        edited = registry.build("guides", "negative", text="pistol", negative_on="edited")
        unedited = registry.build("guides", "negative", text="pistol")
        one, other = (drawn(Denoiser(pipe), [guide])[0] for guide in (edited, unedited))
    assert not torch.allclose(one, other, atol=1e-4)


def test_outside_its_part_of_the_run_nothing_is_changed_or_asked():
    denoiser = Denoiser(shared("tiny_sd1"))
    late = registry.build("guides", "negative", text="red", start=0.5)
    visits = []
    drawn(denoiser, [], visits=visits)
    before = denoiser.evaluations
    steered = []
    drawn(denoiser, [late], visits=steered)
    assert denoiser.evaluations - before == 2 * 2 * 4 + 2
    assert torch.equal(visits[2].latents, steered[2].latents)
    assert not torch.equal(visits[3].latents, steered[3].latents)


@dataclass(frozen=True, kw_only=True)
class Shift(Guide):
    """Moves latents before each pass."""

    name = "shift"
    size: float = 0.1

    def begin(self, run):
        course = Course()
        course.before = lambda visit: visit.latents + self.size
        return course


def test_guides_act_together_and_how_far_each_moved_is_known():
    denoiser = Denoiser(shared("tiny_sd1"))
    both, steering = drawn(denoiser, [Shift(), NEGATIVE])
    assert set(steering.changes) == {"shift", "negative"}
    assert all(bool((change > 1e-3).all()) for change in steering.changes.values())
    assert not torch.allclose(both, drawn(denoiser, [NEGATIVE])[0])


def test_a_move_by_nothing_is_seen():
    _, steering = drawn(Denoiser(shared("tiny_sd1")), [Shift(size=0.0)])
    assert steering.changes["shift"].tolist() == [0.0, 0.0]


def test_guides_that_both_combine_predictions_are_refused():
    with pytest.raises(BadRequest, match="negative and negative both say what the sampler steps"):
        drawn(Denoiser(shared("tiny_sd1")), [NEGATIVE, NEGATIVE])


def test_a_family_that_a_guide_is_not_built_for_is_refused_by_name():
    guide = Shift()
    object.__setattr__(guide, "families", frozenset({"sdxl"}))
    with pytest.raises(BadRequest, match=r"shift is not built for Stable Diffusion 1\.x; .* sdxl"):
        drawn(Denoiser(shared("tiny_sd1")), [guide])


def test_guidance_that_a_guide_needs_and_is_off_is_asked_for():
    with pytest.raises(BadRequest, match="negative changes classifier-free guidance, which is off"):
        drawn(Denoiser(shared("tiny_sd1")), [NEGATIVE], guidance=None)


def test_a_run_too_short_for_a_guides_window_is_refused():
    narrow = registry.build("guides", "negative", text="red", start=0.1, stop=0.2)
    with pytest.raises(BadRequest, match=r"works from 0\.1 to 0\.2 of a run, and none of 4 steps"):
        drawn(Denoiser(shared("tiny_sd1")), [narrow])


def test_the_model_is_as_it_was_after_an_error():
    pipe, delta = erased()
    with delta.apply(pipe):
        weights = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
        denoiser = Denoiser(pipe)
        predict, calls = denoiser.predict, []

        def failing(*given):
            calls.append(given)
            if len(calls) == 2:  # with the delta off
                raise RuntimeError("broken")
            return predict(*given)

        denoiser.predict = failing
        with pytest.raises(RuntimeError, match="broken"):
            drawn(denoiser, [NEGATIVE])
        assert all(torch.equal(v, weights[k]) for k, v in pipe.unet.state_dict().items())


def test_noise_that_a_sampler_adds_comes_from_the_samples_own_generators():
    from diffusers import EulerAncestralDiscreteScheduler

    denoiser = Denoiser(shared("tiny_sd1"))
    config = denoiser.scheduler().config

    def run(seeds):
        scheduler = EulerAncestralDiscreteScheduler.from_config(config)
        scheduler.set_timesteps(3)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return sampled(
            denoiser,
            [],
            ["a cat"] * len(seeds),
            latents=first_noise(denoiser, generators),
            scheduler=scheduler,
            guidance=3.0,
            generators=generators,
        )[0]

    together = run([0, 1])
    assert torch.allclose(together[:1], run([0]), atol=1e-4)
    assert torch.allclose(together[1:], run([1]), atol=1e-4)


@pytest.mark.parametrize("name", ["TCDScheduler", "LCMScheduler"])
def test_samplers_that_may_add_noise_add_what_pipelines_ask_for(name, monkeypatch):
    """Pipelines ask TCD for none; its own default would add some."""
    pipe = shared("tiny_sd1")
    scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    monkeypatch.setattr(pipe, "scheduler", scheduler)
    ours = efface.guided(pipe, NEGATIVE, "a cat", steps=3, guidance=3.0).images[0]
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        "a cat",
        negative_prompt="a red house",
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=3,
        guidance_scale=3.0,
    ).images[0]
    distance = np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)
    assert abs(distance).max() <= 1


def test_of_a_gated_delta_the_base_is_what_it_was_without_it():
    """Its layers stand beside the weights, and its gates are shut while the base is asked."""
    pipe = shared("tiny_sd1")
    delta = gated(pipe)
    assert delta.gate is not None
    guide, asked = registry.build("guides", "sld", concepts=("pistol",), warm_up=0.0), []

    def watched(course):
        combine = course.combine
        course.combine = lambda visit, answers: (
            asked.append((visit.latents, visit.times, answers[0])) or combine(visit, answers)
        )
        return course

    begin = type(guide).begin
    object.__setattr__(guide, "begin", lambda run: watched(begin(guide, run)))
    with delta.apply(pipe):
        drawn(Denoiser(pipe), [guide])
    denoiser = Denoiser(pipe)
    for latents, times, answer in asked:
        with denoiser.inference_mode():
            base = denoiser.predict(latents, times, denoiser.conditions(["pistol", "pistol"]))
        assert torch.allclose(base, answer, atol=1e-5)
    assert len(asked) == 4
