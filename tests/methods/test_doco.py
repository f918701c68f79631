"""DoCo: the discriminator's game and the bending of gradients."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from efface.concepts import Concept, request
from efface.contracts import silent
from efface.errors import BadRequest
from efface.methods.doco import _Game, _official
from efface.runs.gradient_runs import GradientRun
from efface.training.checkpoints import Checkpointing
from efface.training.discriminators import ANCHOR, CONCEPT, PatchDiscriminator
from efface.training.session import Session
from tests.methods.trained import TO_LAMP, made, one_step, ran

TOY = {"warm_up": 2, "norm": "group"}


def discriminator(channels=4, edge=64, norm="batch", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return PatchDiscriminator(channels, edge, norm=norm, generator=generator)


def test_the_discriminator_has_the_published_size():
    judge = discriminator()
    assert sum(weight.numel() for weight in judge.parameters()) == 2_767_553
    assert judge(torch.zeros(2, 4, 64, 64)).shape == (2, 1, 3, 3)


@pytest.mark.parametrize("edge", [8, 16, 32])
def test_smaller_latents_get_fewer_layers(edge):
    judge = discriminator(channels=12, edge=edge)
    assert judge(torch.zeros(2, 12, edge, edge)).shape == (2, 1, 3, 3)


def test_an_undecided_discriminator_loses_ln_2():
    judge = discriminator(edge=8)
    with torch.no_grad():
        judge.layers[-1].weight.zero_()
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(judge.loss(latents, ANCHOR)) == pytest.approx(math.log(2))
    assert float(judge.loss(latents, CONCEPT)) == pytest.approx(math.log(2))


def test_it_learns_to_tell_two_kinds_apart():
    judge = discriminator(edge=8, norm="group")
    optimiser = torch.optim.Adam(judge.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        real = torch.randn(16, 4, 8, 8, generator=generator)
        fake = torch.randn(16, 4, 8, 8, generator=generator) + 1
        optimiser.zero_grad()
        (judge.loss(real, ANCHOR) + judge.loss(fake, CONCEPT)).backward()
        optimiser.step()
    real = torch.randn(64, 4, 8, 8, generator=generator)
    assert float((judge(real) < 0).float().mean()) > 0.9
    assert float((judge(real + 1) > 0).float().mean()) > 0.9


def test_the_released_bending_is_no_projection():
    """After it the product with the retained direction is cos (|g| - lambda), and not zero."""
    own = [torch.tensor([0.1, -0.05]).double()]
    other = [torch.tensor([-0.3, 0.1]).double()]
    length, unit = own[0].norm(), other[0] / other[0].norm()
    cosine = (own[0] @ unit) / length
    (bent,) = _official([own[0].clone()], [other[0].clone()], 1.0)
    assert float(bent @ unit) == pytest.approx(float(cosine * (length - 1.0)))
    (kept,) = _official([own[0].clone()], [-other[0]], 1.0)
    assert torch.allclose(kept, own[0])


def test_concept_and_anchor_alike_look_the_same_to_the_discriminator(tiny_sd1):
    """The model's loss is then ln(1 + exp(logit)) of the anchor's own latents, patch by patch."""
    same = request(Concept(name="pistol", prompts=("a",)), anchor="a", keep=["cat"])
    (alike, fake, real, logits), (_, other, lamp, _) = (
        first_game(tiny_sd1, wanted) for wanted in (same, TO_LAMP)
    )
    assert torch.allclose(fake, real, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(other, lamp, rtol=1e-3, atol=1e-2)
    assert alike == pytest.approx(float((1 + logits.exp()).log().mean()), rel=1e-3)


def first_game(pipe, wanted):
    """Gives the model's first loss, both kinds of latents, and the logits of the anchor's."""
    run, clean, wordings = played(pipe, wanted)
    judge = discriminator(edge=clean.shape[2], norm="group")
    with run.training("key_value") as edit:
        game = _Game(run.method, run, edit, judge, clean, wordings)
        loss = game.losses(run.draws["batches"])["erase"]
    ((fake, real),) = game.last
    with torch.no_grad():
        return float(loss), fake, real, judge(real).double()


def test_the_models_loss_leaves_no_gradient_in_the_discriminator(tiny_sd1):
    """After a whole step it has that of its own loss on both kinds, and no more."""
    run, clean, wordings = played(tiny_sd1)
    judge = discriminator(edge=clean.shape[2], norm="group")
    with run.training("key_value") as edit:
        game = _Game(run.method, run, edit, judge, clean, wordings)
        game.gradients(game.losses(run.draws["batches"]), edit.parameters)
        assert all(weight.grad is None for weight in judge.parameters())
        assert any(bool(weight.grad.any()) for weight in edit.parameters.values())
        own = copy.deepcopy(judge).requires_grad_(requires_grad=True)
        ((fake, real),) = game.lessons
        (own.loss(real, ANCHOR) + own.loss(fake, CONCEPT)).backward()
        game.after_step()
    for found, wanted in zip(judge.parameters(), own.parameters(), strict=True):
        assert torch.allclose(found.grad, wanted.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_two_kinds_that_a_shift_sets_apart_are_brought_together():
    """One learns to tell them apart, the shift to fool it; at last neither can be told."""
    judge = discriminator(edge=8, norm="group")
    teacher = torch.optim.Adam(judge.parameters(), lr=5e-4, betas=(0.5, 0.999))
    shift = torch.nn.Parameter(torch.ones(4, 1, 1))
    student = torch.optim.Adam([shift], lr=2e-2)
    generator = torch.Generator().manual_seed(0)
    path = []
    for step in range(260):
        real, fake = torch.randn(2, 16, 4, 8, 8, generator=generator)
        fake = fake + shift
        if step >= 20:
            student.zero_grad()
            judge.loss(fake, ANCHOR).backward()
            student.step()
        teacher.zero_grad()
        (judge.loss(real, ANCHOR) + judge.loss(fake.detach(), CONCEPT)).backward()
        teacher.step()
        path.append(shift.detach().clone())
    assert torch.stack(path[-60:]).mean(0).abs().max() < 0.3
    with torch.no_grad():
        real, fake = torch.randn(2, 64, 4, 8, 8, generator=generator)
        right = (judge(real) < 0).float().mean() + (judge(fake + shift) > 0).float().mean()
    assert 0.35 < float(right / 2) < 0.65


@pytest.mark.slow
def test_the_warm_up_trains_the_discriminator_alone(tiny_sd1):
    """However long it is, the model's first retained loss is that of the unedited weights."""
    short = one_step("doco", tiny_sd1, TO_LAMP, norm="group", warm_up=0)
    long = one_step("doco", tiny_sd1, TO_LAMP, norm="group", warm_up=5)
    assert short.curves["retain"][0] == long.curves["retain"][0]
    assert short.curves["erase"][0] != long.curves["erase"][0]


@pytest.mark.slow
def test_surgery_changes_the_step_only_where_there_is_conflict(tiny_sd1):
    bent = ran("doco", tiny_sd1, TO_LAMP, **TOY)
    plain = ran("doco", tiny_sd1, TO_LAMP, **TOY, surgery="none")
    assert 0 <= bent.diagnostics["conflict_rate"] <= 1
    same = bent.delta.id == plain.delta.id
    assert same == (bent.diagnostics["conflict_rate"] == 0)


@pytest.mark.parametrize("retain_weight", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_the_erasing_gradient_is_bent_and_the_retained_one_added_by_its_weight(
    tiny_sd1, retain_weight
):
    """Where they conflict, g - (g.h / h.h) h + weight h, over all weights as one vector."""
    run, clean, wordings = played(tiny_sd1, retain_weight=retain_weight)
    judge = discriminator(edge=clean.shape[2], norm="group")
    with run.training("key_value") as edit:
        game = _Game(run.method, run, edit, judge, clean, wordings)
        weights = [*edit.parameters.values()]
        conflicts = []
        for _ in range(6):
            terms = game.losses(run.draws["batches"])
            g, h = (flat_gradient(terms[name], weights) for name in ("erase", "retain"))
            game.gradients(terms, edit.parameters)
            found = torch.cat([weight.grad.flatten() for weight in weights])
            bent = g - min(float(g @ h), 0.0) / float(h @ h) * h
            assert torch.allclose(found, bent + retain_weight * h, rtol=1e-3, atol=1e-7)
            conflicts.append(float(g @ h) < 0)
        assert any(conflicts)


def flat_gradient(term, weights):
    """Gives the gradient of a term over all weights as one vector."""
    found = torch.autograd.grad(term, weights, retain_graph=True)
    return torch.cat([each.flatten() for each in found])


def played(pipe, wanted=TO_LAMP, **settings):
    """Sets the game up as a run does, with the pictures of a toy pipeline."""
    generator = torch.Generator().manual_seed(0)
    method = made("doco", **(TOY | {"keep_weight": 0.0} | settings))
    run = GradientRun(method, pipe, wanted, generator=generator, monitor=silent)
    clean, wordings = run.drawn(run.anchors)
    return run, clean, wordings


def test_the_table_holds_what_the_unedited_model_says_of_its_rows(tiny_sd1):
    """Every picture has its rows, at fresh noise and times, and both answers are those of now."""
    run, clean, wordings = played(tiny_sd1, draws=3)
    judge = discriminator(edge=clean.shape[2], norm="group")
    with run.training("key_value") as edit:
        table = _Game(run.method, run, edit, judge, clean, wordings).table
    assert table.rows.prompt_index.tolist() == wordings.repeat_interleave(3).tolist()
    assert len(table.rows.times.unique()) > 6
    some = torch.tensor([7, 0, 7, 4])
    teacher = table[some]
    index = teacher.rows.prompt_index
    for prompts, found in ((run.prompts, teacher.concept), (run.anchors, teacher.anchor)):
        with run.denoiser.inference_mode():
            answer = run.denoiser.predict(teacher.rows.latents, teacher.rows.times, prompts[index])
        fresh = run.denoiser.process.clean(teacher.rows.latents, answer, teacher.rows.times)
        assert torch.allclose(found, fresh, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(table.concept, table.anchor, atol=1e-3)


@pytest.mark.parametrize("draws", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_a_table_replaces_the_frozen_model_in_warm_up_and_in_every_step(tiny_sd1, draws):
    settings = {"warm_up": 7, "norm": "group", "draws": draws, "keep_weight": 0.0}
    found = ran("doco", tiny_sd1, TO_LAMP, **settings, steps=5, batch=4, trajectories=6)
    sampling = 6 * 4 * 2
    if draws:
        expected = sampling + 6 * draws * 2 + 5 * (4 + 4)
    else:
        expected = sampling + 7 * (4 + 4) + 5 * (4 + 4 + 4)
    assert found.diagnostics["network_evaluations"] == expected


@pytest.mark.thorough
@pytest.mark.parametrize("surgery", ["official", "none"])
def test_conflict_is_not_told_where_nobody_looked_for_it(tiny_sd1, surgery):
    found = ran("doco", tiny_sd1, TO_LAMP, **TOY, surgery=surgery, steps=2)
    assert "conflict_rate" not in found.diagnostics


class Halted(Exception):
    """Interrupts a run."""


@pytest.mark.slow  # By default the suite of methods resumes it.
@pytest.mark.parametrize("saliency", [1.0, 0.5])
def test_a_resumed_run_has_the_same_weights_and_counts(tiny_sd1, tmp_path, saliency):
    def stop(step, *_):
        if step == 4:
            raise Halted

    settings = TOY | {"steps": 8, "saliency": saliency, "learning_rate": 1e-2}
    whole = ran("doco", tiny_sd1, TO_LAMP, **settings)
    kept = Checkpointing(tmp_path, identity="{}", every=1000)
    with pytest.raises(Halted):
        ran("doco", tiny_sd1, TO_LAMP, **settings, monitor=Session(stop, checkpointing=kept))
    resumed = Session(checkpointing=replace(kept, resume=True))
    again = ran("doco", tiny_sd1, TO_LAMP, **settings, monitor=resumed)
    assert again.curves == whole.curves
    assert again.delta.id == whole.delta.id
    assert 0 < whole.diagnostics["conflict_rate"] < 1
    assert again.diagnostics["conflict_rate"] == whole.diagnostics["conflict_rate"]


def test_batches_of_which_no_step_is_taken_teach_the_discriminator_nothing(tiny_sd1):
    """Such as those that a saliency mask is found with."""
    run, clean, wordings = played(tiny_sd1)
    judge = discriminator(edge=clean.shape[2], norm="group")
    with run.training("key_value") as edit:
        game = _Game(run.method, run, edit, judge, clean, wordings)
        for _ in range(3):
            terms = game.losses(run.draws["batches"])
        assert not game.lessons
        game.gradients(terms, edit.parameters)
        assert len(game.lessons) == 1
        assert torch.equal(game.lessons[0][0], game.last[0][0])
        game.after_step()
        assert not game.lessons


def test_draws_are_not_negative():
    with pytest.raises(BadRequest, match="draws"):
        made("doco", draws=-1)
