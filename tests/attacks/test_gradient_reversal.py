"""An erasure taken back by degrees: all of it exactly, none of it, and what a gate opens."""

import pytest
import torch

from efface.attacks.gradient_reversal import GradientReversal
from efface.errors import BadRequest
from efface.hosts.components import parameters
from efface.revival.changes import left_standing, touched
from tests.attacks.toys import course, drawn, erasure, left_as_found, target_of


@pytest.fixture(scope="module", params=["uce", "esd", "spm"])
def delta(request, tiny_sd1):
    return erasure(tiny_sd1, request.param)


def weights(pipe):
    return {key: weight.detach().clone() for key, weight in parameters(pipe)}


@pytest.mark.thorough
def test_with_nothing_of_the_erasure_the_model_is_the_base_bit_for_bit(tiny_sd1, delta):
    target, base = target_of(tiny_sd1, delta), weights(tiny_sd1)
    with target.edited():
        held = touched(target)
        change = left_standing(target, held, dict.fromkeys(held, 0.0))
        with target.variant(change.without, change.added):
            found = weights(tiny_sd1)
    assert all(torch.equal(found[key], value) for key, value in base.items())


def test_half_of_the_erasure_is_half_way_between(tiny_sd1, delta):
    target, base = target_of(tiny_sd1, delta), weights(tiny_sd1)
    with target.edited():
        held = touched(target)
        change = left_standing(target, held, dict.fromkeys(held, 0.5))
        with target.variant(change.without, change.added):
            found = weights(tiny_sd1)
    assert held
    for key, weight in held.items():
        there = base[key] + 0.5 * weight.whole
        assert torch.allclose(found[key], there, atol=1e-6), key
        assert float(weight.whole.norm()) > 0


def test_the_whole_of_an_erasure_without_a_gate_changes_nothing(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1))
    with target.edited():
        held = touched(target)
        assert left_standing(target, held, dict.fromkeys(held, 1.0)) == (frozenset(), {})


@pytest.mark.thorough
def test_pictures_with_nothing_left_are_those_of_the_base(tiny_sd1, delta):
    attack = GradientReversal(shares=(0.5, 0.0))
    target = target_of(tiny_sd1, delta)
    with left_as_found(tiny_sd1):
        half, none = course(attack, target)
        found = drawn(target, none)
    base = target_of(tiny_sd1, None)
    plain = course(attack, base)[1]
    assert torch.equal(found, drawn(base, plain))
    assert not torch.equal(drawn(target, half), found)
    assert [one.note for one in half] == ["with 0.5 of the erasure"] * 2


def test_no_share_is_refused():
    with pytest.raises(BadRequest, match="shares is empty"):
        GradientReversal(shares=())
