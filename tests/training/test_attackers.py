"""Attackers in training beside a network, and gradients outside the retained space."""

from copy import deepcopy

import pytest
import torch

from efface.diffusion.denoising import Denoiser
from efface.training.attackers import Attackers
from efface.training.relearning import Relearning
from efface.training.retaining import RetainedSpace, outside
from tests.conformance.snapshots import differences, snapshot

SETTINGS = Relearning(rank=1, steps=4, batch=2, learning_rate=1e-2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def clean():
    return torch.randn(3, 4, 8, 8, generator=generator(5))


def made(pipe, count=2):
    return Attackers(pipe, SETTINGS, count, generator=generator(1))


def stepped(attackers, pipe, clean, times, seed=2):
    denoiser, draws = Denoiser(pipe), generator(seed)
    prompts = denoiser.conditions(["a pistol"]).repeated(3)
    return [float(attackers.step(denoiser, clean, prompts, draws)) for _ in range(times)]


def predicted(pipe, attackers, who):
    denoiser = Denoiser(pipe)
    count = len(who)
    start = torch.ones(count, *denoiser.latent_shape)
    texts = denoiser.conditions(["a pistol"]).repeated(count)
    with denoiser.inference_mode(), attackers.in_force(torch.tensor(who)):
        return denoiser.predict(start, torch.full((count,), 500.0), texts)


@pytest.mark.thorough
def test_each_sample_meets_its_own_attacker_or_none(tiny_sd1, clean):
    attackers = made(tiny_sd1)
    before = snapshot(tiny_sd1)
    base = predicted(tiny_sd1, attackers, [-1])
    assert torch.equal(predicted(tiny_sd1, attackers, [0]), base)  # Nothing is learnt yet.
    stepped(attackers, tiny_sd1, clean, 2)
    none, first, second = predicted(tiny_sd1, attackers, [-1, 0, 1])
    assert torch.allclose(none, base[0], atol=1e-6)
    assert not torch.allclose(first, none, atol=1e-4)
    assert not torch.allclose(first, second, atol=1e-4)
    assert not differences(before, snapshot(tiny_sd1))


def test_attackers_start_over_when_they_are_done(tiny_sd1, clean):
    """After 4 steps the first begins anew: at its fifth it is where one step leads."""
    attackers = made(tiny_sd1, count=1)
    stepped(attackers, tiny_sd1, clean, 4)
    grown = attackers.state_dict()
    ups = [v.abs().max() for k, v in grown["layers"][0].items() if k.endswith("::up")]
    stepped(attackers, tiny_sd1, clean, 1)
    anew = [
        v.abs().max() for k, v in attackers.state_dict()["layers"][0].items() if k.endswith("::up")
    ]
    assert grown["ages"] == [4]
    assert attackers.state_dict()["ages"] == [1]
    assert float(max(anew)) == pytest.approx(1e-2, rel=1e-3)  # Adam's first step is the step size.
    assert float(max(ups)) > 1.5e-2


@pytest.mark.thorough
def test_they_go_on_from_a_checkpoint_to_the_same_bits(tiny_sd1, clean):
    whole = made(tiny_sd1)
    stepped(whole, tiny_sd1, clean, 3)
    other = made(tiny_sd1)
    other.load_state_dict(deepcopy(whole.state_dict()))
    assert stepped(whole, tiny_sd1, clean, 3) == stepped(other, tiny_sd1, clean, 3)


def test_what_lies_in_the_span_is_taken_out_by_hand():
    """Of (1, 2, 3) the span of (1, 0, 0) and (1, 1, 0) takes the first two values."""
    directions = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [2.0, 0.0, 0.0]])
    left = outside(torch.tensor([1.0, 2.0, 3.0]), directions)
    assert torch.allclose(left, torch.tensor([0.0, 0.0, 3.0]), atol=1e-6)


def test_the_held_term_is_descended_whole_and_others_outside_its_gradients():
    weight = torch.nn.Parameter(torch.zeros(3))
    hooks = RetainedSpace(2, held="keep")

    def step(keep, other):
        hooks.gradients({"keep": weight @ keep, "erase": weight @ other}, {"w": weight})
        return weight.grad.clone()

    x, y, z = torch.eye(3).unbind()
    assert torch.allclose(step(2 * x, x + y + z), 2 * x + y + z)
    assert torch.allclose(step(y, x + y + z), y + z)  # x is remembered
    assert torch.allclose(step(z, x + y + z), z + x)  # and forgotten after two
    weight.grad = None
    hooks.gradients({"erase": weight @ x}, {"w": weight})
    assert torch.allclose(weight.grad, x)
