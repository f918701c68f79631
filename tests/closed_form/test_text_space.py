"""The ridge solver against independent solutions and against what the equations promise."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.closed_form.text_space import (
    TextMap,
    TokenPairs,
    collapsed,
    free_directions,
    gram,
    joined,
    low_rank,
    moment_edit,
    ridge_edit,
    token_factors,
)
from efface.errors import BadRequest

WIDTH = 7
ROWS = st.integers(1, 9)
SEEDS = st.integers(0, 2**30)


def drawn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def problem(seed, rows, kept):
    pairs = TokenPairs(
        drawn(seed, rows, WIDTH), drawn(seed + 1, rows, WIDTH), drawn(seed + 2, rows).abs() + 0.1
    )
    return pairs, drawn(seed + 3, kept, WIDTH)


def objective(edit, weight, pairs, kept, ridge):
    """Writes the paper's objective out for one layer."""
    moved = (pairs.sources @ edit.T - pairs.targets @ weight.T) ** 2
    held = (kept @ edit.T - kept @ weight.T) ** 2
    return (moved.sum(1) @ pairs.weights) + held.sum() + ridge * ((edit - weight) ** 2).sum()


@settings(deadline=None, max_examples=20)
@given(SEEDS, ROWS, ROWS)
def test_the_map_equals_least_squares_on_stacked_rows(seed, rows, count):
    pairs, kept = problem(seed, rows, count)
    ridge, weight = 0.3, drawn(seed + 4, 5, WIDTH)
    root = pairs.weights.sqrt()[:, None]
    left = torch.cat([root * pairs.sources, kept, ridge**0.5 * torch.eye(WIDTH).double()])
    right = torch.cat([root * pairs.targets @ weight.T, kept @ weight.T, ridge**0.5 * weight.T])
    expected = torch.linalg.lstsq(left, right).solution.T
    found = weight @ ridge_edit(pairs, gram([kept], WIDTH), ridge=ridge).map.matrix()
    assert torch.allclose(found, expected, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(SEEDS, ROWS, ROWS)
def test_a_perturbation_costs_what_the_gram_matrix_says(seed, rows, count):
    """The objective is quadratic, so ``J(W + E) - J(W) = tr(E G E^T)`` at the best W, exactly."""
    pairs, kept = problem(seed, rows, count)
    weight = drawn(seed + 4, 5, WIDTH)
    best = weight @ ridge_edit(pairs, gram([kept], WIDTH), ridge=0.3).map.matrix()
    lowest = objective(best, weight, pairs, kept, 0.3)
    eye = torch.eye(WIDTH, dtype=torch.float64)
    system = 0.3 * eye + pairs.sources.T @ (pairs.weights[:, None] * pairs.sources) + kept.T @ kept
    for scale in (1e-2, 1.0):
        change = scale * drawn(seed + 5, 5, WIDTH)
        excess = objective(best + change, weight, pairs, kept, 0.3) - lowest
        assert float(excess) == pytest.approx(float((change @ system * change).sum()), rel=1e-6)


@settings(deadline=None, max_examples=20)
@given(SEEDS, ROWS)
def test_rank_and_locality(seed, rows):
    """The edit has at most one rank per row, and with nothing kept leaves what is orthogonal."""
    pairs, _ = problem(seed, rows, 1)
    edit = ridge_edit(pairs, torch.zeros(WIDTH, WIDTH).double(), ridge=0.3).map
    assert edit.left.shape[1] <= min(rows, WIDTH)
    basis = torch.linalg.svd(pairs.sources, full_matrices=True).Vh[rows:]
    assert torch.allclose(edit.of(basis), basis, atol=1e-9)


def test_one_pair_interpolates_between_source_and_target():
    """With c = e1, t = e2, a = 2, lam = 3: P c = (3 e1 + 2 e2) / 5 = (0.6, 0.4)."""
    pairs = TokenPairs(
        torch.tensor([[1.0, 0.0]]).double(),
        torch.tensor([[0.0, 1.0]]).double(),
        torch.tensor([2.0]).double(),
    )
    solution = ridge_edit(pairs, torch.zeros(2, 2).double(), ridge=3.0)
    assert torch.allclose(solution.map.of(pairs.sources), torch.tensor([[0.6, 0.4]]).double())
    assert solution.conditioning.condition == pytest.approx(5 / 3)
    assert solution.conditioning.backward_error < 1e-14


def test_strength_zero_and_equal_targets_change_nothing_at_all():
    pairs, kept = problem(0, 4, 3)
    off = ridge_edit(pairs.scaled(0.0), gram([kept], WIDTH), ridge=0.3).map
    same = TokenPairs(pairs.sources, pairs.sources, pairs.weights)
    still = ridge_edit(same, gram([kept], WIDTH), ridge=0.3).map
    for edit in (off, still):
        assert torch.equal(edit.matrix(), torch.eye(WIDTH, dtype=torch.float64))


def test_a_common_factor_of_all_weights_cancels():
    pairs, kept = problem(1, 4, 3)
    one = ridge_edit(pairs, gram([kept], WIDTH), ridge=0.3).map.matrix()
    ten = ridge_edit(pairs.scaled(10.0), gram([kept], WIDTH, weight=10.0), ridge=3.0).map.matrix()
    assert torch.allclose(one, ten, atol=1e-11)


def test_a_pair_twice_is_a_pair_of_double_weight_in_any_order():
    pairs, _ = problem(2, 3, 1)
    twice = joined([pairs, pairs])
    assert len(twice.sources) == 3
    order = torch.tensor([2, 0, 1])
    shuffled = TokenPairs(pairs.sources[order], pairs.targets[order], 2 * pairs.weights[order])
    expected = collapsed(shuffled)
    assert torch.equal(twice.sources, expected.sources)
    assert torch.allclose(twice.weights, expected.weights)


def test_a_stream_of_blocks_adds_up_to_the_gram_of_all_rows():
    rows = drawn(3, 12, WIDTH)
    assert torch.allclose(gram(rows.split(5), WIDTH, weight=0.5), 0.5 * rows.T @ rows)
    assert torch.equal(gram([], WIDTH), torch.zeros(WIDTH, WIDTH).double())


def test_balanced_sides_do_not_depend_on_the_number_of_rows():
    assert token_factors(3.0, 8, "sum") == (1.0, 1.0)
    assert token_factors(3.0, 8, "mean") == (pytest.approx(1 / 3), pytest.approx(1 / 8))


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(1, 12))
def test_low_rank_form_is_exact_and_chains(seed, rank):
    left, right = drawn(seed, WIDTH, rank), drawn(seed + 1, rank, WIDTH)
    first = low_rank(left, right)
    eye = torch.eye(WIDTH, dtype=torch.float64)
    assert torch.allclose(first.matrix(), eye + left @ right, atol=1e-10)
    assert first.left.shape[1] <= min(rank, WIDTH)
    second = TextMap(right.T, left.T)
    expected = first.matrix() @ second.matrix()
    assert torch.allclose(first.then(second).matrix(), expected, atol=1e-8)


@settings(deadline=None, max_examples=20)
@given(SEEDS, ROWS, st.integers(1, WIDTH - 1))
def test_an_edit_in_the_null_space_leaves_kept_rows_where_they_are(seed, rows, count):
    pairs, kept = problem(seed, rows, count)
    held = gram([kept], WIDTH)
    free = free_directions(held, share=1e-12)
    assert free.shape == (WIDTH, WIDTH - count)
    edit = ridge_edit(pairs, 0 * held, ridge=1e-6, free=free).map
    assert torch.allclose(edit.of(kept), kept, atol=1e-8)
    assert not torch.allclose(edit.of(pairs.sources), pairs.sources, atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(SEEDS, ROWS, st.integers(1, WIDTH - 1))
def test_the_null_space_edit_is_the_best_of_those_that_keep(seed, rows, count):
    """Least squares over ``M``, where the change is ``M K`` for a basis ``K`` found by SVD."""
    pairs, kept = problem(seed, rows, count)
    ridge = 0.2
    basis = torch.linalg.svd(kept).Vh[count:]  # (free, WIDTH): orthogonal to every kept row
    root = pairs.weights.sqrt()[:, None]
    left = torch.cat(
        [root * (pairs.sources @ basis.T), ridge**0.5 * torch.eye(len(basis)).double()]
    )
    wanted = torch.cat([root * (pairs.targets - pairs.sources), torch.zeros(len(basis), WIDTH)])
    change = torch.linalg.lstsq(left, wanted.double()).solution.T @ basis
    held = gram([kept], WIDTH)
    found = ridge_edit(pairs, held, ridge=ridge, free=free_directions(held, share=1e-12)).map
    assert torch.allclose(found.matrix() - torch.eye(WIDTH).double(), change, atol=1e-8)


def test_all_directions_free_is_no_constraint_and_none_is_refused():
    pairs, kept = problem(3, 4, 9)
    held = gram([kept], WIDTH)
    everything = free_directions(held, share=1.0)
    assert everything.shape == (WIDTH, WIDTH)
    with_all = ridge_edit(pairs, held, ridge=0.1, free=everything).map.matrix()
    assert torch.allclose(with_all, ridge_edit(pairs, held, ridge=0.1).map.matrix(), atol=1e-9)
    with pytest.raises(BadRequest, match="leaves no direction"):
        free_directions(held, share=1e-12)


@pytest.mark.parametrize(
    ("scale", "ridge", "reason"),
    [(1.0, 0.0, r"pivot \d+ of 7 fails"), (1e12, 1e-2, "ill conditioned"), (1.0, -3.0, "pivot 1 ")],
)
def test_a_singular_system_is_refused_with_a_ridge_that_works(scale, ridge, reason):
    pairs, _ = problem(5, 1, 1)
    nothing = torch.zeros(WIDTH, WIDTH).double()
    with pytest.raises(BadRequest, match=reason) as refusal:
        ridge_edit(pairs.scaled(scale), nothing, ridge=ridge)
    advised = float(re.search(r"raise the ridge to (\S+) or more", str(refusal.value))[1])
    assert advised > ridge
    ridge_edit(pairs.scaled(scale), nothing, ridge=advised)
    moments = pairs.sources.T @ pairs.sources * scale
    with pytest.raises(BadRequest, match="raise the ridge to"):
        moment_edit(moments, moments, nothing, ridge=ridge)


def test_values_that_are_not_finite_are_refused():
    pairs, _ = problem(5, 1, 1)
    with pytest.raises(BadRequest, match="not finite"):
        ridge_edit(pairs.scaled(float("inf")), torch.zeros(WIDTH, WIDTH).double(), ridge=1.0)


def test_shapes_are_checked():
    """The import hook of the tests turns a wrong row count into an error with all shapes."""
    pairs, _ = problem(6, 3, 1)
    with pytest.raises(Exception, match="ridge_edit"):
        ridge_edit(pairs, torch.zeros(WIDTH, WIDTH + 1).double(), ridge=1.0)
