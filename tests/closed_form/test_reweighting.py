"""Rounds of ridge edits that share out what is left of the erased and lost of the kept prompts."""

from dataclasses import replace

import pytest
import torch

from efface.closed_form.reweighting import Erased, Kept, Rounds, balanced_edit
from efface.closed_form.text_space import TextMap, TokenPairs, ridge_edit

WIDTH = 6
SEEN = torch.eye(WIDTH).double()


def drawn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def many(seed=0, prompts=8):
    """More than twice as many rows as dimensions on either side, so that prompts compete."""
    blocks = [
        TokenPairs(
            drawn(seed + n, 2, WIDTH), drawn(seed + 50 + n, 2, WIDTH), torch.ones(2).double()
        )
        for n in range(prompts)
    ]
    kept = Kept.of([(n, drawn(seed + 100 + n, 2, WIDTH)) for n in range(prompts)])
    return Erased.of(blocks), replace(kept, weight=0.1)


def balanced(erased, kept, *, rounds, **more):
    return balanced_edit(erased, kept, SEEN, Rounds(rounds, **more), ridge=0.1).map


def shares(erased, kept, **more):
    """How far kept prompts move, in distances to the nearest other one."""
    moved = balanced(erased, kept, **more).of(kept.rows) - kept.rows
    return moved.reshape(-1, 2 * WIDTH).norm(dim=1) / kept.apart(SEEN)


def zeros(*values):
    """A map of two values that multiplies each by one of the factors given."""
    return TextMap(torch.diag(torch.tensor(values).double() - 1), torch.eye(2).double())


def one_row_each(sources, targets):
    return Erased.of(
        [
            TokenPairs(
                torch.tensor([c]).double(), torch.tensor([t]).double(), torch.ones(1).double()
            )
            for c, t in zip(sources, targets, strict=True)
        ]
    )


def test_no_rounds_are_the_plain_edit():
    erased, kept = many()
    gram = 3.0 * kept.rows.T @ kept.rows
    plain = ridge_edit(erased.pairs, gram, ridge=0.1).map.matrix()
    found = balanced(erased, replace(kept, weight=3.0), rounds=0).matrix()
    assert torch.allclose(found, plain, atol=1e-12)


def test_nearness_of_prompts_that_stay_come_halfway_and_arrive():
    """The map halves the first value and leaves the second: (2, 0) comes to (1, 0), (0, 2) stays.

    From (2, 0) to the target (0, 0) that is halfway; to the target (1, 0) it is there; a prompt
    that is its own target is there as well.
    """
    erased = one_row_each(
        [[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]],
        [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 2.0]],
    )
    near = erased.nearness(zeros(0.5, 1.0), torch.eye(2).double())
    assert near.tolist() == [1.0, float("inf"), 0.0, float("inf")]


def test_nearness_is_of_all_rows_of_a_prompt_and_of_what_is_seen_of_them():
    """One prompt of two rows: (3, 0) moves to (0, 0), (0, 4) stays; both aim at (0, 0).

    Moved by 3 and 4 short, unless the second value is not seen.
    """
    block = TokenPairs(
        torch.tensor([[3.0, 0.0], [0.0, 4.0]]).double(),
        torch.zeros(2, 2).double(),
        torch.ones(2).double(),
    )
    erased, edit = Erased.of([block]), zeros(0.0, 1.0)
    assert erased.nearness(edit, torch.eye(2).double()).tolist() == [3 / 4]
    assert erased.nearness(edit, torch.tensor([[1.0, 0.0]]).double()).tolist() == [float("inf")]


def test_prompts_are_apart_from_the_nearest_of_another_concept():
    rows = {"cat": [(0.0, 0.0), (0.0, 1.0)], "dog": [(3.0, 0.0)], "sun": [(0.0, 10.0)]}
    kept = Kept.of(
        [
            (number, torch.tensor([row]).double())
            for number, every in enumerate(rows.values())
            for row in every
        ]
    )
    found = kept.apart(torch.eye(2).double()).tolist()
    assert found == pytest.approx([3.0, 10**0.5, 3.0, 9.0], rel=1e-5)


def test_a_kept_concept_alone_is_measured_by_its_own_length():
    kept = Kept.of([(0, torch.tensor([[3.0, 4.0]]).double())])
    assert kept.apart(torch.eye(2).double()).tolist() == [5.0]


def test_prompts_with_different_numbers_of_rows_can_be_compared():
    kept = Kept.of([(0, torch.ones(3, 2).double()), (1, torch.ones(1, 2).double())])
    assert kept.apart(torch.eye(2).double()).tolist() == pytest.approx([2.0, 2.0])


def test_rows_without_weight_stay_without():
    erased, kept = many()
    erased.pairs.weights[:2] = 0.0
    changed = replace(erased.pairs, targets=erased.pairs.targets.clone())
    changed.targets[:2] += 5.0
    first, second = (
        balanced(replace(erased, pairs=pairs), kept, rounds=0).matrix()
        for pairs in (erased.pairs, changed)
    )
    assert torch.allclose(first, second)


@pytest.mark.parametrize("seed", range(5))
def test_the_prompt_that_moved_least_moves_farther_with_rounds(seed):
    erased, kept = many(seed)
    least = [float(erased.nearness(balanced(erased, kept, rounds=n), SEEN).min()) for n in (0, 8)]
    assert least[1] > least[0]


@pytest.mark.parametrize("seed", range(5))
def test_what_kept_prompts_lose_is_shared_out_by_rounds(seed):
    erased, kept = many(seed)
    first, last = (shares(erased, kept, rounds=n) for n in (0, 8))
    assert float(last.max() / last.mean()) < float(first.max() / first.mean())


def test_the_weights_of_kept_rows_have_the_same_sum_in_every_round(monkeypatch):
    """With rows of length 1 that sum is the trace of the Gram matrix of an edit."""
    erased, kept = many()
    kept = replace(kept, rows=kept.rows / kept.rows.norm(dim=1, keepdim=True))
    grams = []

    def noted(pairs, gram, **settings):
        grams.append(gram)
        return ridge_edit(pairs, gram, **settings)

    monkeypatch.setattr("efface.closed_form.reweighting.ridge_edit", noted)
    balanced(erased, kept, rounds=6)
    assert [float(gram.trace()) for gram in grams] == pytest.approx([0.1 * len(kept.rows)] * 7)
    assert not torch.allclose(grams[-1], grams[0], rtol=0.1)  # though they were shared out anew


@pytest.mark.parametrize("seed", range(5))
def test_prompts_are_erased_as_far_as_is_enough_and_kept_ones_lose_no_more_than_that_takes(seed):
    """With few prompts, every one can come where it should, and none needs to go farther."""
    erased, kept = many(seed, prompts=2)
    near, lost = {}, {}
    for enough in (1.2, 3.0):
        edit = balanced(erased, kept, rounds=40, reach=1.0, enough=enough)
        near[enough] = erased.nearness(edit, SEEN)
        lost[enough] = float(shares(erased, kept, rounds=40, enough=enough).max())
        assert near[enough].tolist() == pytest.approx([enough] * 2, rel=0.05)
    assert lost[1.2] < lost[3.0]


def test_reach_is_the_share_of_the_way_that_is_asked_for():
    """The change is linear in the way to go, so that one and a half of it is one and a half."""
    erased, kept = many()
    identity = torch.eye(WIDTH).double()
    whole, farther = (
        balanced(erased, kept, rounds=0, reach=reach).matrix() - identity for reach in (1.0, 1.5)
    )
    assert torch.allclose(farther, 1.5 * whole, atol=1e-10)
