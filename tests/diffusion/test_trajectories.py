"""Denoisers of every family sample what their pipelines sample; pools hold what was visited."""

import contextlib

import pytest
import torch

from efface import registry
from efface.concepts import Concept, request
from efface.diffusion import trajectories
from efface.diffusion.denoising import Denoiser
from efface.diffusion.noise import guided
from efface.diffusion.trajectories import fresh_pool, sampled_pool, stopped
from efface.errors import BadModel, BadRequest
from tests.cases import TRAINED
from tests.conftest import host

PROMPTS = ["a cat", "pistol"]
FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "flux")


def pool_of(pipe, *, runs=3, steps=4, **options):
    denoiser = Denoiser(pipe)
    conditions = denoiser.conditions(PROMPTS)
    generator = torch.Generator().manual_seed(0)
    followed = torch.arange(runs) % 2
    pool = sampled_pool(
        denoiser, conditions, followed, steps=steps, guidance=3.0, generator=generator, **options
    )
    return denoiser, conditions, pool


@pytest.fixture(scope="module", params=FAMILIES)
def sampled(request):
    pipe = host(f"tiny_{request.param}")
    return request.param, pipe, *pool_of(pipe)


def test_a_pool_holds_every_visit_with_its_predictions(sampled):
    _, _, denoiser, conditions, pool = sampled
    assert len(pool) == 3 * 4
    assert set(pool.step_index.tolist()) == {0, 1, 2, 3}
    some = pool[torch.tensor([2, 7])]
    with denoiser.inference_mode():
        again = denoiser.predict(some.latents, some.times, conditions[some.prompt_index])
        without = denoiser.predict(some.latents, some.times, denoiser.conditions(["", ""]))
    assert torch.allclose(again, some.conditional, atol=1e-4)
    assert torch.allclose(without, some.unconditional, atol=1e-4)
    assert not torch.allclose(again, without, atol=1e-3)


def test_samples_stop_where_the_whole_run_passed(sampled):
    _, _, denoiser, conditions, pool = sampled
    places = torch.tensor([3, 1, 0])
    start = pool[pool.step_index == 0]
    ended = stopped(
        denoiser, conditions[start.prompt_index], start.latents, places, steps=4, guidance=3.0
    )
    for sample, place in enumerate(places.tolist()):
        passed = pool[(pool.step_index == place) & (pool.trajectory_index == sample)]
        assert torch.allclose(ended[sample], passed.latents[0], atol=1e-4)


def test_a_fresh_pool_asks_the_teacher_at_the_time_where_each_sample_stands(tiny_sd1):
    """The time that the sampler would visit next, after as many steps as were done."""
    denoiser = Denoiser(tiny_sd1)
    conditions, seen = denoiser.conditions(PROMPTS), []
    with torch.no_grad():
        pool = fresh_pool(
            denoiser,
            conditions,
            6,
            steps=4,
            guidance=3.0,
            generator=torch.Generator().manual_seed(0),
            teacher=lambda: contextlib.nullcontext(seen.append(denoiser.evaluations)),
        )
    draws = torch.Generator().manual_seed(0)
    prompts = torch.randint(2, (6,), generator=draws)
    done = torch.randint(4, (6,), generator=draws)
    assert len(done.unique()) > 2
    times = torch.tensor([751.0, 501.0, 251.0, 1.0], dtype=torch.float64)[done]
    assert torch.equal(pool.times, times)
    with denoiser.inference_mode():
        conditional = denoiser.predict(pool.latents, times, conditions[prompts])
    assert torch.allclose(pool.conditional, conditional, atol=1e-5)


def test_one_step_of_a_pool_follows_from_its_entry(tiny_sd1):
    """Stored predictions at the stored time lead to the next entry: no time is off."""
    denoiser, _, pool = pool_of(tiny_sd1)
    scheduler = denoiser.ready(4)
    run = pool[pool.trajectory_index == 1]
    for place in range(3):
        entry = run[run.step_index == place]
        steered = guided(entry.unconditional, entry.conditional, 3.0)
        after = scheduler.step(steered, entry.times[0].long(), entry.latents).prev_sample
        assert torch.allclose(after, run[run.step_index == place + 1].latents, atol=1e-5)


def test_evaluations_count_samples(tiny_sd1):
    denoiser, _, _ = pool_of(tiny_sd1, runs=3, steps=4)
    assert denoiser.evaluations == 2 * 3 * 4


def test_pools_are_selected_and_split_by_steps_done(tiny_sd1):
    _, _, pool = pool_of(tiny_sd1)
    early, late = pool.between(0, 1), pool.between(1, 4)
    assert len(early) + len(late) == len(pool)
    assert early.times.min() > late.times.max()


def test_long_prompts_and_unknown_models_are_refused(tiny_sd1):
    with pytest.raises(BadRequest, match="more tokens"):
        Denoiser(tiny_sd1).conditions(["cat " * 40])
    with pytest.raises(BadModel, match="cannot be trained"):
        Denoiser(host("tiny_pixart"))


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
def test_long_kept_prompts_are_refused_before_any_work(family, monkeypatch):
    method = registry.build("methods", "esd", **(TRAINED | {"keep_weight": 0.0}))
    wanted = request("pistol", keep=[Concept(name="cat", prompts=("a cat", "cat " * 700))])
    monkeypatch.setattr(Denoiser, "predict", lambda *_: pytest.fail("something was predicted"))
    with pytest.raises(BadRequest, match="more tokens"):
        method.erase(host(f"tiny_{family}"), wanted, generator=torch.Generator())


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_other_schedulers_do_not_make_trajectories_clip(tiny_sd1, name):
    """DDIM clips by default; settings that do not name it must not bring that in."""
    import diffusers

    held = tiny_sd1.scheduler
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    tiny_sd1.scheduler = getattr(diffusers, name)(**schedule)
    try:
        made = Denoiser(tiny_sd1).scheduler()
        assert not made.config.clip_sample
        pool = pool_of(tiny_sd1)[2]
    finally:
        tiny_sd1.scheduler = held
    assert pool.clean.abs().max() > 1.0
    assert held.config.get("clip_sample") == Denoiser(tiny_sd1).scheduler().config.clip_sample


def test_sd3_without_t5_reads_zeros_in_its_place():
    pipe = host("tiny_sd3")
    whole = Denoiser(pipe).conditions(["a cat"])
    pipe.text_encoder_3, pipe.tokenizer_3 = None, None
    bare = Denoiser(pipe).conditions(["a cat"])
    assert bare.rows.shape == whole.rows.shape
    clip = whole.rows.shape[1] - 256
    assert torch.equal(bare.rows[:, :clip], whole.rows[:, :clip])
    assert not bare.rows[:, clip:].any()


@pytest.mark.thorough
def test_sampling_tells_how_far_it_is(tiny_sd1, monkeypatch):
    monkeypatch.setattr(trajectories, "SAMPLES_A_PASS", 4)  # two trajectories a pass
    seen = []
    pool_of(tiny_sd1, report=lambda *heard: seen.append(heard))
    done = [2, 4, 6, 8, 9, 10, 11, 12]
    assert seen == [("sampling trajectories", each, 12) for each in done]
    pool_of(tiny_sd1)
    assert len(seen) == 8
