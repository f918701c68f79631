"""Rounding is idempotent and within half a step; pruning sets just so many weights to zero."""

import pytest
import torch

from efface.attacks.quantisation import Quantisation, pruned, quantised
from efface.errors import BadRequest
from tests.attacks.toys import course, drawn, erasure, generator, left_as_found, target_of


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_twice_changes_nothing_and_stays_within_half_a_step(bits):
    weight = torch.randn(5, 3, 2, 2, generator=generator())
    weight[2] = 0
    once = quantised(weight, bits)
    assert torch.allclose(quantised(once, bits), once, atol=1e-6)
    step = weight.flatten(1).abs().amax(dim=1) / (2 ** (bits - 1) - 1)
    assert bool(((once - weight).flatten(1).abs() <= step[:, None] / 2 + 1e-6).all())
    assert all(len(row.unique()) <= 2**bits - 1 for row in once.flatten(1))


def test_by_hand():
    """Three bits are seven values; a row up to 3 has whole numbers: 1.4 is 1 and -2.6 is -3."""
    assert quantised(torch.tensor([[3.0, 1.4, -2.6]]), 3).tolist() == [[3.0, 1.0, -3.0]]
    assert pruned(torch.tensor([[3.0, 1.0, -2.0, 0.5]]), 0.5).tolist() == [[3.0, 0.0, -2.0, 0.0]]


def test_pruning_twice_changes_nothing():
    weight = torch.randn(4, 10, generator=generator())
    once = pruned(weight, 0.3)
    assert bool(((once == 0).sum(dim=1) == 3).all())
    assert torch.equal(pruned(once, 0.3), once)


@pytest.mark.thorough
def test_every_way_is_tried_and_the_model_left_as_found(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1))
    with left_as_found(tiny_sd1):
        turns = course(Quantisation(bits=(4,), pruned=(0.5,)), target)
        rounded, cut = (drawn(target, turn) for turn in turns)
    assert [turn[0].note for turn in turns] == ["in 4 bits", "50% of the weights pruned"]
    assert not torch.equal(rounded, cut)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": (1,)}, "bits is"),
        ({"pruned": (1.0,)}, "pruned is"),
        ({"bits": (), "pruned": ()}, "both empty"),
    ],
)
def test_what_is_no_rounding_is_refused(settings, message):
    with pytest.raises(BadRequest, match=message):
        Quantisation(**settings)
