"""Attend-and-Excite: its loss by hand, parity with diffusers' pipeline, refinement, batches."""

import warnings

import pytest
import torch

from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import denoise
from efface.errors import BadRequest
from efface.guides.attend_and_excite import AttendAndExcite, neglect
from efface.guiding.course import GuidedRun
from efface.guiding.engine import begun, sampled
from tests.conftest import host, shared

PROMPTS = ["a cat and a dog", "a red car and a tree"]
WORDS = ("cat", "dog", "car", "tree")
OFTEN = {"refine_at": (0.0, 0.5), "refine_to": (0.1, 0.15), "refine_steps": 3}


@pytest.fixture(scope="module")
def denoiser():
    return Denoiser(shared("tiny_sd1"))


def noise(count=2, *, seed=0):
    return torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def drawn(denoiser, guides, prompts=PROMPTS, *, latents=None, steps=4):
    latents = noise(len(prompts)) if latents is None else latents
    scheduler = denoiser.ready_as_drawn(steps)
    return sampled(denoiser, guides, prompts, latents=latents, scheduler=scheduler, guidance=5.0)[0]


def test_neglect_is_that_of_the_worst_word_and_only_it_has_a_gradient():
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = torch.tensor([[True, True, True], [True, True, False]])
    maps = (maps * there[..., None, None]).requires_grad_()
    losses = neglect(maps, there)
    peaks = maps.detach().flatten(2).amax(dim=2)
    assert losses.tolist() == [float(1 - peaks[0].min()), float(1 - peaks[1, :2].min())]
    (slope,) = torch.autograd.grad(losses.sum(), maps)
    moved = slope.flatten(2).abs().sum(dim=2)
    assert (moved > 0).sum(dim=1).tolist() == [1, 1]
    assert not moved[1, 2]


def test_the_soft_maximum_moves_all_words_and_nears_the_worst():
    maps = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps, there = maps.requires_grad_(), torch.ones(1, 3, dtype=torch.bool)
    (slope,) = torch.autograd.grad(neglect(maps, there, softness=0.5).sum(), maps)
    assert slope.flatten(2).abs().sum(dim=2).gt(0).all()
    sharp = neglect(maps, there, softness=1e-4) + 1e-4 * torch.tensor(3.0).log()
    assert torch.allclose(sharp, neglect(maps, there), atol=1e-6)


def test_step_sizes_are_those_of_the_note():
    guide = AttendAndExcite(words=("cat",))
    sizes = [round(guide.alpha(index, 50), 3) for index in (0, 10, 20, 49)]
    assert sizes == [20.0, 18.952, 17.843, 14.142]


def test_thresholds_are_in_shares_of_the_run():
    guide = AttendAndExcite(words=("cat",))
    assert guide.refinements(50) == {0: 0, 10: 1, 20: 2}
    assert guide.refinements(20) == {0: 0, 4: 1, 8: 2}
    assert [guide.guided(index, 50) for index in (0, 24, 25)] == [True, True, False]
    with pytest.raises(BadRequest, match="in which these are not 3 different ones"):
        guide.refinements(2)


def released(pipeline, latents, *, steps, **options):
    """Gives what diffusers' pipeline holds after each step."""
    from diffusers import StableDiffusionAttendAndExcitePipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = {key: part for key, part in pipeline.components.items() if key != "image_encoder"}
        theirs = StableDiffusionAttendAndExcitePipeline(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    seen = []
    theirs(
        num_inference_steps=steps,
        latents=latents.clone(),
        output_type="latent",
        callback=lambda index, time, each: seen.append(each.detach().clone()),
        **options,
    )
    return seen


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("resolution", [4, 8])
def test_latents_are_those_of_diffusers_step_by_step(resolution, dtype):
    """Both refine twice; a random network multiplies rounding, so float32 is compared in shares."""
    pipeline, steps = host("tiny_sd1", dtype=dtype), 6
    denoiser, prompt = Denoiser(pipeline), PROMPTS[0]
    places = [denoiser.text.span(prompt, word) for word in ("cat", "dog")]
    assert all(first == last for first, last in places)
    theirs = released(
        pipeline,
        noise(1).to(dtype),
        steps=steps,
        prompt=prompt,
        token_indices=[first for first, _ in places],
        attn_res=(resolution, resolution),
        max_iter_to_alter=4,
        thresholds={0: 0.095, 2: 0.2},
        guidance_scale=5.0,
    )
    guide = AttendAndExcite(
        words=("cat", "dog"),
        resolution=resolution,
        refining="released",
        until=4 / 6,
        refine_at=(0.0, 2 / 6),
        refine_to=(0.095, 0.2),
    )
    conditions = denoiser.conditions([prompt])
    latents, ours = noise(1).to(dtype), []
    steer = begun(GuidedRun(denoiser, (prompt,), steps, 5.0, conditions), [guide])
    scheduler = denoiser.ready_as_drawn(steps)
    for _ in denoise(denoiser, latents, conditions, scheduler=scheduler, guidance=5.0, steer=steer):
        ours.append(latents.clone())
    ours = [*ours[1:], latents]
    plain = drawn(denoiser, [], [prompt], latents=noise(1).to(dtype), steps=steps)
    assert (ours[-1] - plain).abs().max() > 0.1
    for mine, other in zip(ours, theirs, strict=True):
        scale = 1.0 if dtype == torch.float64 else float(other.abs().max())
        assert torch.allclose(mine, other, rtol=0, atol=1e-5 * scale)


def counted(denoiser, guide, *, steps=4, prompts=PROMPTS):
    before = denoiser.evaluations
    drawn(denoiser, [guide], prompts, steps=steps)
    return denoiser.evaluations - before


def test_only_passes_whose_result_is_read_are_made(denoiser):
    plain = 2 * 2 * 4
    guide = AttendAndExcite(among=WORDS, refine_at=(), refine_to=())
    assert counted(denoiser, guide) == plain + 2 * 2
    met = AttendAndExcite(among=WORDS, refine_at=(0.0,), refine_to=(1e-6,))
    assert counted(denoiser, met) == plain + 2 * 2


def test_refinement_ends_after_its_last_move_and_takes_one_more_look(denoiser):
    plain = 2 * 2 * 4
    never = AttendAndExcite(among=WORDS, refine_at=(0.0,), refine_to=(0.999,), refine_steps=3)
    assert counted(denoiser, never) == plain + 2 * 2 + 2 * 3


def test_refinement_reaches_its_threshold_where_it_can(denoiser):
    prompt = PROMPTS[0]
    guide = AttendAndExcite(
        words=("cat", "dog"), until=0.001, refine_at=(0.0,), refine_to=(0.1,), refine_steps=50
    )
    conditions = denoiser.conditions([prompt])
    run = GuidedRun(denoiser, (prompt,), 4, 5.0, conditions)
    course = guide.begin(run)
    seen = []

    def steer(visit):
        if visit.prediction is not None or visit.index:
            return visit
        every = torch.arange(1)
        with torch.enable_grad():
            refined, *_ = course._refined(visit.latents, visit, 1 - guide.refine_to[0])
        for inputs in (visit.latents, refined):
            maps = course.attention.seen(inputs, visit, every)
            seen.append(float(neglect(maps, course._there(visit, every))))
        return visit

    scheduler = denoiser.ready_as_drawn(4)
    [*denoise(denoiser, noise(1), conditions, scheduler=scheduler, guidance=5.0, steer=steer)]
    assert seen[0] > 0.9 >= seen[1]


@pytest.mark.thorough
@pytest.mark.parametrize("refining", ["reached", "released"])
def test_a_batch_gives_what_single_pictures_give(denoiser, refining):
    guide = AttendAndExcite(among=WORDS, refining=refining, **OFTEN)
    both = drawn(denoiser, [guide])
    for number, prompt in enumerate(PROMPTS):
        words = tuple(word for word in WORDS if word in prompt)
        single = AttendAndExcite(words=words, refining=refining, **OFTEN)
        alone = drawn(denoiser, [single], [prompt], latents=noise()[number : number + 1])
        assert torch.allclose(both[number], alone[0], atol=1e-4)


def test_a_step_of_zero_is_plain_sampling_bit_for_bit(denoiser):
    off = AttendAndExcite(among=WORDS, step_size=0.0)
    assert torch.equal(drawn(denoiser, [off]), drawn(denoiser, []))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"refine_to": (0.5,)}, "refine_at has 3 shares and refine_to 1 thresholds"),
        ({"refine_to": (0.5, 0.6, 1.0)}, "peaks are above 0 and below 1"),
        ({"softness": 0.0}, "softness is 0.0"),
        ({"until": 0.0}, "until is 0.0; it is a share of the run"),
        ({"until": 1.5}, "until is 1.5"),
        ({"last_step": 2.0}, "last_step is 2.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"step_size": -1.0}, "step_size is -1.0"),
        ({"step_size": float("inf")}, "step_size is inf"),
        ({"normalised_step": -0.1}, "normalised_step is -0.1"),
        ({"refine_at": (0.0, 1.0, 0.5)}, "shares of the run are from 0 to below 1"),
        ({"refine_at": (0.0, 0.5, 0.4)}, "each once, in order"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(BadRequest, match=message):
        AttendAndExcite(among=WORDS, **settings)
