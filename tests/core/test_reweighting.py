"""Rounds of ridge edits that share out what is left of the erased rows."""

import pytest
import torch

from efface.core.reweighting import balanced_edit, nearness, reweighted
from efface.core.text_space import TextMap, TokenPairs, ridge_edit

WIDTH = 6


def drawn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def many(seed=0, rows=24):
    """Four times as many rows as dimensions, so that they compete."""
    pairs = TokenPairs(drawn(seed, rows, WIDTH), drawn(seed + 1, rows, WIDTH), drawn(2, rows).abs())
    kept = drawn(seed + 3, 9, WIDTH)
    return pairs, kept.T @ kept


def zeros(*values):
    """A map of two values that multiplies each by one of the factors given."""
    return TextMap(torch.diag(torch.tensor(values).double() - 1), torch.eye(2).double())


def test_no_rounds_are_the_plain_edit_to_the_bit():
    pairs, kept = many()
    plain = ridge_edit(pairs, kept, ridge=0.1).map
    found = balanced_edit(pairs, kept, ridge=0.1, rounds=0, reach=1.0).map
    assert torch.equal(found.left, plain.left)
    assert torch.equal(found.right, plain.right)


def test_nearness_of_rows_that_stay_come_halfway_and_arrive():
    """The map halves the first value and leaves the second: (2, 0) comes to (1, 0), (0, 2) stays.

    From (2, 0) to the target (0, 0) that is halfway; to the target (1, 0) it is there; a row that
    is its own target counts as one that is far enough.
    """
    sources = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]).double()
    targets = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]).double()
    pairs = TokenPairs(sources, targets, torch.ones(4).double())
    assert nearness(pairs, zeros(0.5, 1.0)).tolist() == [1.0, float("inf"), 0.0, 1.5]


def test_weight_goes_from_rows_that_arrived_to_those_that_stayed():
    """One row arrives, one stays: their weights change by exp(-1/2) and exp(1/2), the sum not."""
    sources = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).double()
    pairs = TokenPairs(sources, torch.zeros(2, 2).double(), torch.tensor([3.0, 3.0]).double())
    arrived, stayed = reweighted(pairs, zeros(0.0, 1.0)).weights
    assert float(arrived + stayed) == pytest.approx(6.0)
    assert float(stayed / arrived) == pytest.approx(float(torch.tensor(1.0).exp()))


def test_rows_without_weight_stay_without():
    pairs, kept = many()
    pairs.weights[:5] = 0.0
    weights = reweighted(pairs, ridge_edit(pairs, kept, ridge=0.1).map).weights
    assert (weights[:5] == 0).all()
    assert (weights[5:] > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_row_that_moved_least_moves_farther_with_rounds(seed):
    pairs, kept = many(seed)
    least = [
        float(nearness(pairs, balanced_edit(pairs, kept, ridge=0.1, rounds=n, reach=1.0).map).min())
        for n in (0, 8)
    ]
    assert least[1] > least[0]


def test_reach_is_the_share_of_the_way_that_is_asked_for():
    """The change is linear in the way to go, so that one and a half of it is one and a half."""
    pairs, kept = many()
    identity = torch.eye(WIDTH).double()
    whole, farther = (
        balanced_edit(pairs, kept, ridge=0.1, rounds=0, reach=reach).map.matrix() - identity
        for reach in (1.0, 1.5)
    )
    assert torch.allclose(farther, 1.5 * whole, atol=1e-10)
