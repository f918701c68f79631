"""A-STAR: its equations by hand, its masks over a run, layouts, batches, what is left behind."""

import pytest
import torch

from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import denoise
from efface.errors import BadModel, BadRequest
from efface.guides.a_star import AStar, overlap, retention_loss, segregation_loss
from efface.guiding.attention_maps import AttentionMaps
from efface.guiding.course import GuidedRun
from efface.guiding.engine import begun, sampled
from efface.memory import MemoryRanOut
from tests.conftest import host, shared

PROMPTS = ["a cat and a dog", "a red car and a tree and a dog"]
WORDS = ("cat", "dog", "car", "tree")
OPTIONS = [
    {},
    {"segregation_norm": "sum", "retention_norm": "max"},
    {"mask": "otsu", "mask_from": "after"},
    {"mask": "top", "until": 0.5},
    {"mask": "mean_std", "normalised_step": 0.05},
    {"refine_at": (0.0,), "refine_to": (0.4,), "refine_steps": 2},
    {"rest_below": 0.3, "rest_above": 0.1},
    {"layouts": ("dog=0,0,0.5,1",), "shared_over": "words", "resolution": 8},
    {"smoothing": "none", "retention": 0.0},
]


@pytest.fixture(scope="module")
def denoiser():
    return Denoiser(shared("tiny_sd1"))


def maps_of(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def there(*shape):
    return torch.ones(shape, dtype=torch.bool)


def noise(count=2, *, seed=0):
    return torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def drawn(denoiser, guides, prompts=PROMPTS, *, latents=None, steps=4):
    latents = noise(len(prompts)) if latents is None else latents
    scheduler = denoiser.ready_as_drawn(steps)
    return sampled(denoiser, guides, prompts, latents=latents, scheduler=scheduler, guidance=5.0)[0]


def test_the_ratio_is_half_a_dice_coefficient():
    one, other = maps_of(4, 4), maps_of(4, 4, seed=1)
    assert float(overlap(one, one)) == pytest.approx(0.5, abs=1e-12)
    assert torch.equal(overlap(one, other), overlap(other, one))
    assert float(overlap(3 * one, 3 * other)) == pytest.approx(float(overlap(one, other)))
    apart = (one - other).abs().sum() / (one.sum() + other.sum())
    assert float(overlap(one, other)) == pytest.approx(float(0.5 * (1 - apart)), abs=1e-7)
    left = torch.zeros(4, 4)
    left[:, :2] = 1
    assert float(overlap(left, 1 - left)) == 0.0
    assert float(overlap(torch.zeros(4, 4), torch.zeros(4, 4))) == 0.0


def test_segregation_is_the_sum_over_unordered_pairs():
    maps = maps_of(2, 4, 3, 3)
    expected = [
        sum(overlap(maps[n, i], maps[n, j]) for i in range(4) for j in range(i)) for n in range(2)
    ]
    found = segregation_loss(maps, there(2, 4))
    assert torch.allclose(found, torch.stack(expected), atol=1e-12)
    assert (found <= 4 * 3 / 4).all()
    fewer = there(2, 4).index_put_((torch.tensor(1), torch.tensor(3)), torch.tensor(False))
    alone = segregation_loss(maps[1:, :3], there(1, 3))
    assert torch.allclose(segregation_loss(maps, fewer)[1:], alone, atol=1e-12)


def test_one_word_overlaps_with_nothing():
    maps = maps_of(1, 1, 4, 4).requires_grad_()
    loss = segregation_loss(maps, there(1, 1))
    (slope,) = torch.autograd.grad(loss.sum(), maps)
    assert float(loss.detach()) == 0.0
    assert not slope.any()


def test_retention_by_hand():
    mask = (maps_of(1, 2, 4, 4) > 0.5).double()
    known = there(1, 2)
    assert float(retention_loss(mask, mask, known)) == pytest.approx(2 * 0.5)
    assert float(retention_loss(mask, torch.zeros_like(mask), known)) == 2.0
    assert float(retention_loss(torch.zeros_like(mask), torch.zeros_like(mask), known)) == 2.0
    assert float(retention_loss(mask, mask, torch.tensor([[True, False]]))) == pytest.approx(0.5)


def test_dividing_by_sums_takes_away_the_gain_of_a_fading_map():
    maps = maps_of(1, 2, 4, 4)
    faded = maps * torch.tensor([1.0, 0.2], dtype=torch.float64)[None, :, None, None]
    plain = [float(segregation_loss(each, there(1, 2))) for each in (maps, faded)]
    by_sum = [float(segregation_loss(each, there(1, 2), norm="sum")) for each in (maps, faded)]
    assert plain[1] < 0.7 * plain[0]
    assert by_sum[0] == pytest.approx(by_sum[1])


def test_dividing_by_peaks_takes_the_scale_out_of_retention():
    maps, mask = maps_of(1, 1, 4, 4), (maps_of(1, 1, 4, 4) > 0.5).double()
    found = [float(retention_loss(k * maps, mask, there(1, 1), norm="max")) for k in (1.0, 0.01)]
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("norm", [("none", "none"), ("sum", "max")])
def test_gradients_of_both_losses_are_those_of_finite_differences(norm):
    maps, mask = maps_of(1, 3, 3, 3).requires_grad_(), (maps_of(1, 3, 3, 3, seed=2) > 0.5).double()
    peak = maps.detach().amax(dim=(2, 3), keepdim=True)

    def both(given):
        # The peak is a constant of the loss.
        scaled = given / peak if norm[1] == "max" else given
        return segregation_loss(given, there(1, 3), norm=norm[0]) + retention_loss(
            scaled, mask, there(1, 3)
        )

    assert torch.autograd.gradcheck(both, (maps,))
    (slope,) = torch.autograd.grad(both(maps).sum(), maps)
    own = segregation_loss(maps, there(1, 3), norm=norm[0])
    own = own + retention_loss(maps, mask, there(1, 3), norm=norm[1])
    assert torch.allclose(slope, torch.autograd.grad(own.sum(), maps)[0], atol=1e-10)


def run_of(denoiser, guide, prompts=PROMPTS, *, steps=4):
    """Gives the visits of a run, with the guide's masks and how many are known after each."""
    conditions = denoiser.conditions(prompts)
    course = guide.begin(GuidedRun(denoiser, tuple(prompts), steps, 5.0, conditions))
    seen = []

    def steer(visit):
        if visit.prediction is None:
            known = course._known.clone()
            moved = course.before(visit)
            seen.append((known, course._masks.clone(), moved))
        return visit

    scheduler = denoiser.ready_as_drawn(steps)
    latents = noise(len(prompts))
    [*denoise(denoiser, latents, conditions, scheduler=scheduler, guidance=5.0, steer=steer)]
    return seen


def test_nothing_is_retained_at_the_first_step_and_masks_follow_every_step(denoiser):
    seen = run_of(denoiser, AStar(among=WORDS))
    assert not seen[0][0].any()
    assert seen[1][0].tolist() == [[True, True, False], [True, True, True]]
    assert all(not masks.requires_grad for _, masks, _ in seen)
    assert not torch.equal(seen[0][1], seen[-1][1])


def test_a_layout_is_retained_from_the_first_step_and_never_changes(denoiser):
    guide = AStar(among=WORDS, layouts=("dog=0,0,0.5,1",), resolution=4)
    seen = run_of(denoiser, guide)
    # The words of a prompt stand in the order of the setting.
    assert seen[0][0].tolist() == [[False, True, False], [True, False, False]]
    left = torch.tensor([1.0, 1, 0, 0]).expand(4, 4)
    for _, masks, _ in seen:
        assert torch.equal(masks[0, 1], left)
        assert torch.equal(masks[1, 0], left)
    assert not torch.equal(seen[0][1][0, 0], torch.zeros(4, 4))


def test_a_layout_draws_attention_to_its_place(denoiser):
    seen = {}
    for side, layout in {"left": "dog=0,0,0.5,1", "right": "dog=0.5,0,1,1"}.items():
        guide = AStar(
            words=("dog",), layouts=(layout,), resolution=4, segregation=0.0, step_size=100.0
        )
        conditions = denoiser.conditions(["a dog"])
        course = guide.begin(GuidedRun(denoiser, ("a dog",), 4, 5.0, conditions))

        def steer(visit, course=course, side=side):
            if visit.prediction is None and visit.index == 0:
                latents = visit.latents
                with torch.enable_grad():
                    for _ in range(3):
                        latents = course.led(latents, visit)
                seen[side] = course.attention.seen(latents, visit, torch.arange(1))[0, 0]
            return visit

        scheduler = denoiser.ready_as_drawn(4)
        [*denoise(denoiser, noise(1), conditions, scheduler=scheduler, guidance=5.0, steer=steer)]
    share = {side: float(maps[:, :2].sum() / maps.sum()) for side, maps in seen.items()}
    assert share["left"] > share["right"] + 1e-4


def test_a_small_step_lowers_the_loss(denoiser):
    prompt = PROMPTS[:1]
    guide = AStar(words=("cat", "dog"), step_size=1.0)
    conditions = denoiser.conditions(prompt)
    course = guide.begin(GuidedRun(denoiser, tuple(prompt), 4, 5.0, conditions))
    losses = []

    def steer(visit):
        if visit.prediction is None and visit.index == 1:
            every = torch.arange(1)
            before = course.attention.seen(visit.latents, visit, every)
            with torch.enable_grad():
                reading = course.attention.read(visit.latents, visit, every)
                moved = course._moved(visit.latents, reading, visit)
            after = course.attention.seen(moved, visit, every)
            losses.extend(float(course._losses(maps, every)) for maps in (before, after))
            assert moved.dtype == visit.latents.dtype
            assert not moved.requires_grad
        elif visit.prediction is None:
            course.before(visit)
        return visit

    scheduler = denoiser.ready_as_drawn(4)
    [*denoise(denoiser, noise(1), conditions, scheduler=scheduler, guidance=5.0, steer=steer)]
    assert losses[1] < losses[0]


@pytest.mark.thorough
@pytest.mark.parametrize("options", OPTIONS, ids=lambda each: "-".join(each) or "plain")
def test_a_batch_gives_what_single_pictures_give(denoiser, options):
    guide = AStar(among=WORDS, **options)
    both = drawn(denoiser, [guide])
    assert (both - drawn(denoiser, [])).abs().max() > 1e-3
    for number, prompt in enumerate(PROMPTS):
        words = tuple(word for word in WORDS if word in prompt)
        single = AStar(words=words, **options)
        alone = drawn(denoiser, [single], [prompt], latents=noise()[number : number + 1])
        assert torch.allclose(both[number], alone[0], atol=1e-4)


@pytest.mark.parametrize("off", [{"step_size": 0.0}, {"segregation": 0.0, "retention": 0.0}])
def test_what_moves_nothing_is_plain_sampling_bit_for_bit(denoiser, off):
    assert torch.equal(drawn(denoiser, [AStar(among=WORDS, **off)]), drawn(denoiser, []))


def test_a_rest_leaves_latents_as_they_are(denoiser):
    resting = AStar(among=WORDS, rest_below=100.0, rest_above=0.0)
    seen = run_of(denoiser, resting, steps=3)
    # At the first step there are no masks to keep, so nothing rests.
    moved = [latents for _, _, latents in seen]
    plain = run_of(denoiser, AStar(among=WORDS), steps=3)
    assert torch.equal(moved[0], plain[0][2])
    assert not torch.equal(moved[1], plain[1][2])


def test_each_step_costs_one_more_pass_and_after_one_more(denoiser):
    for options, passes in (({}, 4), ({"until": 0.5}, 2), ({"mask_from": "after"}, 8)):
        before = denoiser.evaluations
        drawn(denoiser, [AStar(among=WORDS, **options)])
        assert denoiser.evaluations - before == 2 * (2 * 4 + passes)


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_u_nets_are_guided(family):
    denoiser = Denoiser(host(f"tiny_{family}"))
    found = drawn(denoiser, [AStar(among=WORDS)])
    assert found.isfinite().all()
    assert (found - drawn(denoiser, [])).abs().max() > 1e-4


def test_where_memory_runs_out_gradients_are_taken_in_parts(monkeypatch):
    denoiser, guide = Denoiser(shared("tiny_sd1")), AStar(among=WORDS)
    whole = drawn(denoiser, [guide])
    held, sizes = AttentionMaps.read, []

    def narrow(self, latents, *rest):
        sizes.append(len(latents))
        if len(latents) > 1:
            raise torch.OutOfMemoryError("no more")
        return held(self, latents, *rest)

    monkeypatch.setattr(AttentionMaps, "read", narrow)
    assert torch.allclose(drawn(denoiser, [guide]), whole, atol=1e-4)
    assert sizes == [2, *[1] * 8]

    def never(*_):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(AttentionMaps, "read", never)
    with pytest.raises(MemoryRanOut, match="on the gradient of one sample; take a smaller"):
        drawn(denoiser, [guide])


def test_half_precision_stays_half_and_near_float32():
    found = []
    for dtype in (torch.float32, torch.float16):
        denoiser = Denoiser(host("tiny_sd1", dtype=dtype))
        found.append(drawn(denoiser, [AStar(among=WORDS)], latents=noise().to(dtype), steps=2))
    assert found[1].dtype == torch.float16
    assert torch.allclose(found[0], found[1].float(), atol=0.1)


def test_a_gradient_that_is_not_finite_is_an_error():
    denoiser = Denoiser(host("tiny_sd1"))
    guide = AStar(among=WORDS)
    with torch.no_grad():
        guide_maps = guide.attention(denoiser, PROMPTS, (8, 8)).source.layers
        guide_maps[0].to_q.weight.mul_(float("inf"))
    with pytest.raises(BadModel, match="gradient of the attention maps is not finite"):
        drawn(denoiser, [guide])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segregation": -1.0}, "segregation is -1.0; weights are zero or more"),
        ({"refine_at": (0.0,)}, "refine_at has 1 shares and refine_to 0 overlaps"),
        ({"refine_at": (0.0,), "refine_to": (0.5,)}, "overlaps are from 0 to below 0.5"),
        ({"mask_level": 1.5}, "mask_level is 1.5; of half it is a share"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(BadRequest, match=message):
        AStar(among=WORDS, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": ()}, "a_star has nothing to steer by; give it words or among"),
        ({"words": ("cat",)}, "'a red car and a tree and a dog' has no word 'cat'; name one"),
        ({"among": ("moon",)}, "has none of the words moon; name one of its words: a, cat, and"),
        ({"resolution": 16}, "no cross-attention layer has maps of side 16"),
        ({"layouts": ("moon=0,0,1,1",)}, "given for 'moon', which is not among the words"),
        ({"layouts": ("dog=0,0,2,1",)}, "off the picture or empty"),
        ({"refine_at": (0.1, 0.2), "refine_to": (0.4, 0.4)}, "not 2 different ones"),
    ],
)
def test_what_cannot_work_in_a_run_is_refused_before_it(denoiser, settings, message):
    named = {} if {"words", "among"} & {*settings} else {"among": WORDS}
    guide = AStar(**named, **settings)
    conditions = denoiser.conditions(PROMPTS)
    before = denoiser.evaluations
    with pytest.raises(BadRequest, match=message):
        begun(GuidedRun(denoiser, tuple(PROMPTS), 4, 5.0, conditions), [guide])
    assert denoiser.evaluations == before


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_transformers_are_refused_by_name(family):
    denoiser = Denoiser(host(f"tiny_{family}"))
    conditions = denoiser.conditions(PROMPTS)
    with pytest.raises(BadRequest, match=denoiser.host.title):
        begun(GuidedRun(denoiser, tuple(PROMPTS), 4, None, conditions), [AStar(among=WORDS)])
