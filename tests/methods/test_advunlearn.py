"""AdvUnlearn against its equations: both players' losses, what moves in whose turn, its limits."""

import pytest
import torch

from efface import registry
from efface.contracts import silent
from efface.diffusion.denoising import Denoiser
from efface.errors import BadModel, BadRequest
from efface.hosts.components import component
from efface.hosts.text_layers import text_layers
from efface.methods import advunlearn
from efface.methods.advunlearn import AdvUnlearn
from efface.runs.gradient_runs import GradientRun
from tests.conftest import host
from tests.methods.trained import ONE, PISTOL, TO_LAMP, at_one_latent, made, one_step, ran

NO_ATTACK = {"attack_tokens": 0}


class Spy:
    """Looks at what every search is given and gives back."""

    def __init__(self, monkeypatch, look=lambda: None):
        self.starts, self.ends, self.seen = [], [], []
        search = advunlearn.search

        def watched(kind, loss, start, **options):
            self.seen.append(look())
            found = search(kind, loss, start, **options)
            self.seen.append(look())
            self.starts.append(start.clone())
            self.ends.append(found.inputs)
            return found

        monkeypatch.setattr(advunlearn, "search", watched)


def gap(pipe, **settings):
    """Gives the mean of (e_c - e_0)^2 and of (e_a - e_0)^2 at the one latent of a run."""
    run, pool = at_one_latent("advunlearn", pipe, **settings)
    anchors = run.answered(pool, run.anchors)
    e_0, e_c = pool.unconditional, pool.conditional
    return float((e_c - e_0).square().mean()), float((anchors - e_0).square().mean())


@pytest.mark.parametrize("eta", [0.0, 1.0, 2.0])
def test_the_first_clean_loss_is_the_gap_times_one_plus_eta_squared(tiny_sd1, eta):
    settings = ONE | NO_ATTACK | {"negative_guidance": eta, "target": "anchor"}
    loss = ran("advunlearn", tiny_sd1, **settings).curves["erase"][0]
    assert loss == pytest.approx((1 + eta) ** 2 * gap(tiny_sd1, **settings)[0], rel=1e-4)


@pytest.mark.thorough
def test_kept_prompts_are_where_they_were_before_the_first_step(tiny_sd1):
    for more in ({}, {"keep_unconditional": 0.5}, {"latents": "fresh"}):
        result = ran("advunlearn", tiny_sd1, steps=2, **NO_ATTACK | more)
        assert result.curves["keep"][0] == pytest.approx(0.0, abs=1e-12)
        assert result.curves["keep"][1] > 0


def test_an_anchor_is_where_the_target_starts(tiny_sd1):
    """With eta 0 the target is e_a; the loss is then the mean of (e_c - e_a)^2."""
    settings = ONE | NO_ATTACK | {"negative_guidance": 0.0}
    run, pool = at_one_latent("advunlearn", tiny_sd1, TO_LAMP, **settings)
    expected = (pool.conditional - run.answered(pool, run.anchors)).square().mean()
    loss = ran("advunlearn", tiny_sd1, TO_LAMP, **settings).curves["erase"][0]
    assert loss == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.thorough
def test_without_embeddings_it_is_esd_on_the_text_encoder():
    """The same pools and draws, in a loop written out here: encode, predict, Adam."""
    pipe, settings = host("tiny_sd1"), {"steps": 4, "batch": 3, "keep_batch": 2} | NO_ATTACK
    found = ran("advunlearn", pipe, **settings)
    method = made("advunlearn", **settings)
    generator = torch.Generator().manual_seed(0)
    run = GradientRun(method, pipe, PISTOL, generator=generator, monitor=silent)
    pool, kept = run.pool(), run.kept
    weights = [*pipe.text_encoder.parameters()]
    trained = [
        w for name, w in pipe.text_encoder.named_parameters() if "layers" in name or "final" in name
    ]
    optimiser = torch.optim.Adam(trained, lr=method.learning_rate)
    curve, draws = [], run.draws["batches"]
    for _ in range(method.steps):
        rows, held = pool.drawn(3, draws), kept.drawn(2, draws)
        target = 2 * rows.unconditional - rows.conditional
        losses = []
        for part, wordings, wanted, weight in (
            (rows, [each.prompt for each in run.wordings], target, 1.0),
            (held, run.kept_wordings, held.conditional, method.keep_weight),
        ):
            ids = pipe.tokenizer(
                [wordings[place] for place in part.prompt_index.tolist()],
                padding="max_length",
                max_length=pipe.tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids
            read = pipe.text_encoder(ids)[0]
            noise = pipe.unet(part.latents, part.times, read).sample
            losses.append(weight * (noise - wanted).square().mean())
        curve.append(float(losses[0].detach()))
        optimiser.zero_grad()
        sum(losses).backward()
        optimiser.step()
    assert found.curves["erase"] == pytest.approx(curve, rel=1e-4)
    assert len(weights) > len(trained)


@pytest.mark.thorough
def test_the_encoder_stands_still_while_it_is_attacked(tiny_sd1, monkeypatch):
    def weights():
        every = {**dict(tiny_sd1.text_encoder.named_parameters())}
        assert all(w.grad is None for w in tiny_sd1.unet.parameters())
        return {name: weight.detach().clone() for name, weight in every.items()}

    spy = Spy(monkeypatch, weights)
    ran("advunlearn", tiny_sd1, steps=3)
    for before, after in zip(spy.seen[::2], spy.seen[1::2], strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(spy.seen[0][name], spy.seen[-1][name]) for name in spy.seen[0])


@pytest.mark.thorough
def test_attacks_go_no_further_than_their_steps(tiny_sd1, monkeypatch):
    spy = Spy(monkeypatch)
    ran("advunlearn", tiny_sd1, steps=2, attack="fgsm", attack_rate=0.01)
    ran("advunlearn", tiny_sd1, steps=2, attack="pgd", attack_rate=0.01, attack_steps=5)
    far = [float((e - s).abs().max()) for s, e in zip(spy.starts, spy.ends, strict=True)]
    assert far[:2] == pytest.approx([0.01, 0.01], rel=1e-3)
    assert 0.01 < max(far[2:]) <= 0.05 * (1 + 1e-4)


@pytest.mark.thorough
def test_an_attack_brings_the_concept_nearer(tiny_sd1):
    """Small steps at the one latent lower the squared error to the original prediction."""
    settings = ONE | {"steps": 1, "attack_steps": 40, "attack_rate": 5e-4}
    before, after = ran("advunlearn", tiny_sd1, **settings).diagnostics["attack_errors"]
    assert after < before


@pytest.mark.thorough
def test_the_latest_attack_goes_on_where_the_last_one_ended(tiny_sd1, monkeypatch):
    spy = Spy(monkeypatch)
    ran("advunlearn", tiny_sd1, steps=5, attack_every=2, attack_init="latest", attack_tokens=2)
    assert len(spy.starts) == 3
    for end, start in zip(spy.ends, spy.starts[1:], strict=False):
        assert torch.equal(end, start)
    assert spy.ends[0].shape[:2] == (1, 2)


@pytest.mark.thorough
def test_a_step_of_several_batches_has_one_attack(tiny_sd1, monkeypatch):
    spy = Spy(monkeypatch)
    ran("advunlearn", tiny_sd1, steps=2, accumulate=3)
    assert len(spy.starts) == 2


@pytest.mark.thorough
def test_a_random_start_is_embeddings_of_the_vocabulary_or_the_name(tiny_sd1, monkeypatch):
    spy = Spy(monkeypatch)
    both = {"placements": ("prefix", "replace"), "attack_batch": 2}
    ran("advunlearn", tiny_sd1, steps=2, warm_up=1, **both)
    (start,) = spy.starts
    table = tiny_sd1.text_encoder.get_input_embeddings().weight
    assert bool((table == start[0, 0]).all(1).any())
    ids = Denoiser(tiny_sd1).text.tokenised("pistol").content
    assert torch.equal(start[1, 0], table[ids[0]])


def test_the_warm_up_is_clean_and_shares_are_kept(tiny_sd1, monkeypatch):
    """Of six latents a third are clean; the encoder reads given embeddings for the other four."""
    counts = []
    encode = type(Denoiser(tiny_sd1).host).encode

    def counted(self, prompts, **options):
        if options.get("gradients") and torch.is_grad_enabled():
            counts.append((len(prompts), bool(options.get("embeddings"))))
        return encode(self, prompts, **options)

    monkeypatch.setattr(type(Denoiser(tiny_sd1).host), "encode", counted)
    settings = {"steps": 2, "batch": 6, "keep_weight": 0.0, "attack_steps": 1, "attack_batch": 5}
    ran("advunlearn", tiny_sd1, warm_up=1, clean_share=1 / 3, **settings)
    assert counts == [(6, False), (5, True), (2, False), (4, True)]


@pytest.mark.thorough
def test_only_the_chosen_layers_change(tiny_sd1):
    keys = {*ran("advunlearn", tiny_sd1, steps=1, layers=(-1,), part="feed_forward").delta.patches}
    norm = {f"text_encoder/final_layer_norm.{name}" for name in ("weight", "bias")}
    assert keys == {*text_layers(tiny_sd1, "feed_forward", layers=[-1])} | norm
    alone = ran("advunlearn", tiny_sd1, steps=1, layers=(0,), final_norm=False).delta.patches
    assert {*alone} <= {*text_layers(tiny_sd1, layers=[0])}


@pytest.mark.thorough
def test_the_weight_of_what_is_kept_is_linear(tiny_sd1):
    """After a first step without it, so that there is something to hold."""
    gradients = {}
    for weight in (0.0, 10.0, 20.0):
        method = made("advunlearn", keep_weight=weight, **NO_ATTACK)
        generator = torch.Generator().manual_seed(0)
        run = GradientRun(method, tiny_sd1, PISTOL, generator=generator, monitor=silent)
        scene = advunlearn._Scene(method, run)
        _ = run.kept
        with run.training(method.chosen(tiny_sd1)) as edit:
            for w in edit.parameters.values():
                w.data += 0.05 * torch.sin(torch.arange(w.numel())).reshape(w.shape)
            targets = scene.kept(torch.Generator().manual_seed(1))
            if not targets:
                assert weight == 0.0
                continue
            loss = advunlearn.squared_errors(run.denoiser, targets)["keep"]
            key = next(iter(edit.parameters))
            (gradients[weight],) = torch.autograd.grad(loss, edit.parameters[key])
    assert torch.allclose(gradients[20.0], 2 * gradients[10.0], rtol=1e-4, atol=1e-9)
    assert gradients[10.0].abs().max() > 0


def test_pools_give_the_loss_that_fresh_latents_give(tiny_sd1):
    """At the first visit of a trajectory both ask the unedited model about the same noise."""
    settings = ONE | NO_ATTACK
    pooled = one_step("advunlearn", tiny_sd1, **settings).curves["erase"][0]
    run, pool = at_one_latent("advunlearn", tiny_sd1, **settings)
    with run.denoiser.inference_mode():
        again = run.denoiser.predict(pool.latents, pool.times, run.prompts[pool.prompt_index])
        empty = run.denoiser.predict(pool.latents, pool.times, run.empty(1))
    fresh = (again - (2 * empty - again)).square().mean()
    assert pooled == pytest.approx(float(fresh), rel=1e-5)


@pytest.mark.thorough
def test_fresh_latents_cost_many_times_more(tiny_sd1):
    short = {"steps": 4, "attack_steps": 3}
    pooled, fresh = (
        ran("advunlearn", tiny_sd1, latents=latents, **short).diagnostics["network_evaluations"]
        for latents in ("base", "fresh")
    )
    pool = 2 * 4 * (4 + 4)
    assert pooled == pool + 4 * (3 + 4 + 4)
    # Each latent takes two predictions of the unedited model and twice as many as steps before it.
    assert fresh >= 4 * (3 + 4 + 4) * 3


@pytest.mark.thorough
def test_the_denoiser_asks_for_no_gradients(tiny_sd1):
    seen = []
    ran(
        "advunlearn",
        tiny_sd1,
        steps=1,
        monitor=lambda *_: seen.extend(
            weight.requires_grad or weight.grad is not None
            for name in ("unet", "vae")
            for weight in component(tiny_sd1, name).parameters()
        ),
    )
    assert seen
    assert not any(seen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack_steps": 0}, "attack_steps is 0"),
        ({"attack_rate": -1.0}, "attack_rate is -1.0"),
        ({"attack_radius": -1.0}, "attack_radius is -1.0; it must not be negative"),
        ({"clean_share": 1.0}, "clean_share is 1.0; it is a share, of 0 to less than 1"),
        ({"placements": ()}, "there are 0 placements"),
        ({"placements": ("prefix", "suffix")}, "raise attack_batch or batch"),
        ({"batch": 2, "clean_share": 0.9}, "and 0 in a step that read what it found"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, message):
    with pytest.raises(BadRequest, match=message):
        made("advunlearn", **settings)


def test_other_families_are_refused_by_name(tiny_sd1):
    with pytest.raises(BadRequest, match="advunlearn does not edit Stable Diffusion XL"):
        ran("advunlearn", host("tiny_sdxl"))


def test_a_prompt_without_room_is_refused_before_any_work(tiny_sd1):
    with pytest.raises(BadRequest, match="shorten it or lower attack_tokens"):
        ran("advunlearn", tiny_sd1, attack_tokens=tiny_sd1.tokenizer.model_max_length)


def test_an_encoder_that_hides_padding_is_refused():
    pipe = host("tiny_sd1")
    pipe.text_encoder.config.use_attention_mask = True
    with pytest.raises(BadModel, match="hides padding"):
        ran("advunlearn", pipe)


def test_released_presets_sample_anew_and_train_on_attacked_prompts_alone():
    for name in ("released-sd14", "released-sd14-fast"):
        preset = registry.build("methods", "advunlearn", preset=name)
        assert (preset.latents, preset.clean_share, preset.warm_up) == ("fresh", 0.0, 200)
    assert isinstance(preset, AdvUnlearn)
    assert preset.attack == "released_fast"
