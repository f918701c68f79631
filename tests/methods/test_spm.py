"""SPM: membranes, latent anchoring, and gates in plain pipelines."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from efface import registry
from efface.concepts import Concept, request
from efface.deltas.composition import compose
from efface.deltas.delta import Delta
from efface.diffusion.denoising import Denoiser
from efface.diffusion.losses import squared_errors
from efface.errors import BadRequest
from efface.methods.spm import _noises
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import host, shared
from tests.methods.trained import PISTOL, at_one_latent, one_step, ran

FREE = {"anchors": 0}
SHORT = FREE | {"steps": 4}
HOUSE = request("house", keep=["cat"])


@cache
def trained(wanted=PISTOL):
    """Trains a membrane once, for tests that do not change it."""
    return ran("spm", shared("tiny_sd1"), wanted, **SHORT).delta


@pytest.mark.thorough
def test_the_first_losses_are_those_of_the_equations(tiny_sd1):
    esd = one_step("esd", tiny_sd1, negative_guidance=1.0)
    spm = one_step("spm", tiny_sd1, anchoring=1.0, anchors=1)
    assert spm.curves["erase"][0] == pytest.approx(esd.curves["erase"][0], rel=1e-5)
    assert spm.curves["anchor"][0] == pytest.approx(0.0, abs=1e-10)


def test_anchoring_has_no_gradient_before_the_first_step(tiny_sd1):
    """Each answer is the frozen one then; the erasing term does move up, and not down."""
    run, pool = at_one_latent("spm", tiny_sd1, sampling_steps=3, anchors=2)
    draws, trained = run.draws["batches"], run.method.trainable()
    with run.adapting(trained.role, rank=trained.rank, membranes=1) as adapters:
        held = run.method._anchored(run, adapters, pool, draws)
        erase = run.method._erase(run, adapters, pool)
        weights = [*adapters.parameters.values()]
        for ask, still in ((held[0], True), (erase, False)):
            run.open_membranes(adapters, [ask], draws)
            (loss,) = squared_errors(run.denoiser, [ask]).values()
            sizes = [float(each.norm()) for each in torch.autograd.grad(loss, weights)]
            assert (max(sizes) < 1e-4) == still
            assert (float(loss.detach()) < 1e-6) == still
        moved = dict(zip(adapters.parameters, sizes, strict=True))
        downs = [size for key, size in moved.items() if key.endswith("::down")]
        assert downs
        assert not any(downs)


@pytest.mark.parametrize(("share", "blank"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_a_share_of_every_latents_anchors_is_the_empty_prompt(tiny_sd1, share, blank):
    """The released code lays out half of those that count so; drawn anchors stay what they were."""
    settings = {"anchors": 4, "trajectories": 2, "anchors_unconditional": share}
    run, pool = at_one_latent("spm", tiny_sd1, **settings)
    plain, _ = at_one_latent("spm", tiny_sd1, **(settings | {"anchors_unconditional": 0.0}))
    with run.adapting("attention_blocks", rank=1, membranes=1) as adapters:
        (held,) = run.method._anchored(run, adapters, pool, torch.Generator().manual_seed(0))
        (drawn,) = plain.method._anchored(run, adapters, pool, torch.Generator().manual_seed(0))
    empty = run.empty(1).rows[0]
    rows = held.conditions.rows.reshape(len(pool), 4, *empty.shape)
    assert torch.equal(rows[:, :blank], empty.expand(len(pool), blank, -1, -1))
    others = drawn.conditions.rows.reshape(len(pool), 4, *empty.shape)
    assert torch.equal(rows[:, blank:], others[:, blank:])
    assert registry.build("methods", "spm", preset="released-sd14").anchors_unconditional == 0.5


SLOW = pytest.mark.slow


@pytest.mark.thorough
@pytest.mark.parametrize("eta", [*(pytest.param(each, marks=SLOW) for each in (0.0, 1.0)), 5.0])
def test_a_concept_that_is_its_own_anchor_has_nothing_to_lose(tiny_sd1, eta):
    same = request(Concept(name="pistol", prompts=("a",)), anchor="a", keep=["cat"])
    found = one_step("spm", tiny_sd1, same, **FREE, negative_guidance=eta)
    assert found.curves["erase"][0] == pytest.approx(0.0, abs=1e-10)


@pytest.mark.thorough
def test_the_first_step_moves_up_and_not_down(tiny_sd1):
    """up is zero at first, so down has no gradient; the other factor takes the first step."""
    patches = one_step("spm", tiny_sd1, **FREE, optimiser="adam").delta.patches
    fresh = one_step("spm", tiny_sd1, **FREE, optimiser="adam", learning_rate=1e-12).delta.patches
    assert all(bool(patch.up.any()) for patch in patches.values())
    assert all(torch.allclose(patches[key].down, fresh[key].down) for key in patches)


def test_anchors_have_the_concepts_size(tiny_sd1):
    like = Denoiser(tiny_sd1).conditions(["pistol"]).repeated(50)
    drawn = _noises(like, torch.Generator().manual_seed(0))
    share = drawn.rows.flatten(1).norm(dim=1) / like.rows.flatten(1).norm(dim=1)
    assert share.min() >= 0.8
    assert share.max() < 1.2
    cosine = torch.cosine_similarity(drawn.rows.flatten(1), like.rows.flatten(1))
    assert cosine.abs().max() < 0.2


def predictions(pipe, prompts):
    denoiser = Denoiser(pipe)
    start = torch.randn(1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(1))
    latents = start.expand(len(prompts), -1, -1, -1)
    times = torch.full((len(prompts),), 500.0)
    with denoiser.inference_mode():
        return denoiser.predict(latents, times, denoiser.conditions(prompts))


@pytest.mark.slow
def test_a_gate_opens_for_the_concept_and_for_each_sample_by_itself(tiny_sd1):
    delta = ran("spm", tiny_sd1, **FREE, calibrated=True).delta
    prompts = ["a photo of a pistol", "a photo of a cat", ""]
    before = predictions(tiny_sd1, prompts)
    untouched = snapshot(tiny_sd1)
    with delta.apply(tiny_sd1):
        after = predictions(tiny_sd1, prompts)
        alone = torch.cat([predictions(tiny_sd1, [prompt]) for prompt in prompts])
    moved = (after - before).flatten(1).norm(dim=1)
    assert moved[0] > 1e-3
    assert moved[1] < 0.1 * moved[0]
    assert torch.allclose(after, alone, atol=1e-5)
    assert not differences(untouched, snapshot(tiny_sd1))


@pytest.mark.thorough
def test_openings_are_one_for_the_concept_and_between_zero_and_one(tiny_sd1):
    gate = ran("spm", tiny_sd1, steps=1, **FREE).delta.gate
    denoiser = Denoiser(tiny_sd1)
    own = gate.openings(denoiser.conditions(["a photo of a pistol", "pistol"]).rows)
    assert torch.allclose(own, torch.ones(2, 1), atol=1e-5)
    other = gate.openings(denoiser.conditions(["a cat in a field", ""]).rows)
    assert 0 <= other.min() <= other.max() < 0.999
    squared = ran("spm", tiny_sd1, steps=1, **FREE, gate="official").delta.gate
    assert torch.allclose(squared.openings(denoiser.conditions([""]).rows), other[1:] ** 2)


@pytest.mark.thorough
def test_a_pipeline_draws_with_the_gate_and_scale_zero_is_the_base(tiny_sd1):
    delta = trained()

    def picture():
        generator = torch.Generator().manual_seed(3)
        options = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent"}
        return tiny_sd1("a pistol", generator=generator, **options).images

    base = picture()
    with delta.apply(tiny_sd1, scale=0.0):
        assert torch.equal(picture(), base)
    with delta.apply(tiny_sd1):
        assert not torch.allclose(picture(), base)
    assert torch.equal(picture(), base)


@pytest.mark.thorough
def test_gated_deltas_survive_their_file(tmp_path):
    delta = trained()
    delta.save(tmp_path / "delta.safetensors")
    back = Delta.load(tmp_path)
    assert back.id == delta.id
    for name, tensor in delta.gate.tensors().items():
        assert torch.equal(back.gate.tensors()[name], tensor)
    ungated = replace(delta, gate=None)
    assert ungated.id != delta.id


@pytest.mark.thorough
def test_gated_deltas_compose_exactly_in_any_order(tiny_sd1):
    one, other = trained(), trained(HOUSE)
    both = compose([one, other])
    assert both.id == compose([other, one]).id
    assert both.gate.membranes == 2
    prompts = ["a pistol", "a house", "a cat"]
    with both.apply(tiny_sd1):
        together = predictions(tiny_sd1, prompts)
    with one.apply(tiny_sd1), other.apply(tiny_sd1):
        in_turn = predictions(tiny_sd1, prompts)
    assert torch.allclose(together, in_turn, atol=1e-4)


@pytest.mark.thorough
def test_several_concepts_have_membranes_of_their_own(tiny_sd1):
    both = request(["pistol", "house"], keep=["cat"])
    delta = ran("spm", tiny_sd1, both, **SHORT, calibrated=True).delta
    assert delta.gate.membranes == 2
    assert all(len(patch.down) == 2 for patch in delta.patches.values())
    opened = delta.gate.openings(Denoiser(tiny_sd1).conditions(["pistol", "house"]).rows)
    assert opened[0, 0] > 0.9 > opened[0, 1]
    assert opened[1, 1] > 0.9 > opened[1, 0]


def test_merging_drops_the_gate():
    pipe = host("tiny_sd1")
    delta = trained()
    before = predictions(pipe, ["a cat"])
    delta.merge_into(pipe)
    merged = predictions(pipe, ["a cat"])
    assert not torch.allclose(merged, before, atol=1e-4)
    other = host("tiny_sd1")
    with replace(delta, gate=None).apply(other):
        assert torch.allclose(predictions(other, ["a cat"]), merged, atol=1e-5)


@pytest.mark.parametrize("family", ["flux", "auraflow"])
def test_a_prompt_cannot_open_membranes_of_a_pass_that_it_has_no_part_in(family):
    wanted, told = request("pistol", keep=["cat"]), []
    method = registry.build("methods", "spm", unconditional="same")
    with pytest.raises(BadRequest, match="do not ask with the prompt and without it in one pass"):
        method.erase(
            shared(f"tiny_{family}"),
            wanted,
            generator=torch.Generator().manual_seed(0),
            monitor=lambda *each: told.append(each),
        )
    assert not told
