"""Regression of row changes on centers: against a plain solution, and what must not matter."""

import pytest
import torch

from efface.closed_form.kernel_regression import RowRegression, farthest, median_distance
from efface.deltas.row_maps import RowMap, gaussian
from efface.errors import BadRequest


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MOVED, CHANGES, HELD = drawn(9, 4), drawn(9, 4, seed=1), drawn(12, 4, seed=2)
CENTERS = torch.cat([MOVED[:5], HELD[:6]])


def solved(moved=MOVED, changes=CHANGES, held=HELD, *, centers=CENTERS, ridge=0.1, blocks=1):
    sums = RowRegression(centers, 1.5)
    for rows, wanted in zip(moved.chunk(blocks), changes.chunk(blocks), strict=True):
        sums.move(rows, wanted)
    for rows in held.chunk(blocks):
        sums.hold(rows)
    return sums.solved(ridge=ridge, keep_scale=3.0)


def test_it_is_plain_weighted_kernel_ridge_with_the_kernel_written_out():
    """Normal equations, row by row, with the exponential of each distance."""

    def near(rows):
        return torch.tensor(
            [[torch.exp(-((x - z) ** 2).sum() / 4.5) for z in CENTERS] for x in rows],
            dtype=torch.float64,
        )

    moved, held = near(MOVED), near(HELD)
    system = 0.1 * near(CENTERS) + moved.T @ moved + 3.0 * held.T @ held
    wanted = torch.linalg.solve(system, moved.T @ CHANGES)
    found = solved()
    assert torch.allclose(found.map.coefficients, wanted, atol=1e-8)
    assert torch.allclose(found.map.of(MOVED), MOVED + moved @ wanted, atol=1e-8)
    left = (moved @ wanted - CHANGES).norm() / CHANGES.norm()
    assert found.figures["residual"] == pytest.approx(float(left), rel=1e-6)
    shifted = (held @ wanted).norm() / HELD.norm()
    assert found.figures["interference"] == pytest.approx(float(shifted), rel=1e-6)


def test_rows_go_where_they_should_as_the_ridge_goes_to_zero_and_all_are_centers():
    every = torch.cat([MOVED, HELD])
    found = solved(centers=every, ridge=1e-12)
    assert torch.allclose(found.map.of(MOVED), MOVED + CHANGES, atol=1e-4)
    assert torch.allclose(found.map.of(HELD), HELD, atol=1e-4)
    far = (solved(centers=every, ridge=10.0).map.of(MOVED) - MOVED - CHANGES).norm()
    assert far > 0.1 * CHANGES.norm()


def test_without_changes_it_is_the_identity_exactly():
    found = solved(changes=torch.zeros_like(CHANGES))
    assert torch.equal(found.map.of(MOVED), MOVED)
    assert torch.equal(found.map.of(HELD), HELD)


def test_blocks_and_the_order_of_rows_change_nothing():
    whole = solved().map.coefficients
    assert torch.allclose(solved(blocks=3).map.coefficients, whole, atol=1e-9)
    order = torch.tensor([3, 8, 0, 5, 1, 7, 2, 6, 4])
    turned = solved(MOVED[order], CHANGES[order], HELD.flip(0))
    assert torch.allclose(turned.map.coefficients, whole, atol=1e-9)


def test_adding_a_concept_to_the_sums_equals_solving_anew():
    sums = RowRegression(CENTERS, 1.5)
    sums.move(MOVED[:4], CHANGES[:4])
    sums.hold(HELD)
    before = sums.solved(ridge=0.1, keep_scale=3.0).map.coefficients
    sums.move(MOVED[4:], CHANGES[4:])
    after = sums.solved(ridge=0.1, keep_scale=3.0).map.coefficients
    assert torch.allclose(after, solved().map.coefficients, atol=1e-9)
    assert not torch.allclose(before, after, atol=1e-3)


def test_far_rows_move_no_more_than_the_nearest_center_lets_them():
    found = solved().map
    rows = 12.0 + drawn(6, 4, seed=5)
    moved = (found.of(rows) - rows).norm(dim=1)
    nearest = gaussian(rows, found.centers, found.length_scale).amax(dim=1)
    assert bool((moved <= nearest * found.coefficients.norm(dim=1).sum()).all())
    assert torch.equal(found.of(rows + 1e3), rows + 1e3)


def test_the_kernel_keeps_its_digits_for_rows_of_large_norm():
    rows = 1000.0 + drawn(5, 4)
    exact = gaussian(rows, rows, torch.tensor(1.5, dtype=torch.float64))
    single = gaussian(rows.float(), rows.float(), torch.tensor(1.5))
    assert torch.allclose(single.double(), exact, atol=1e-3)


def test_farthest_rows_are_those_chosen_by_hand_and_doubles_are_left_out():
    rows = torch.tensor([[0.0], [1.0], [10.0], [10.0], [6.0]])
    assert farthest(rows, 5).tolist() == [0, 2, 4, 1]
    assert farthest(rows, 3).tolist() == [0, 2, 4]


def test_the_median_distance_needs_two_different_rows():
    assert median_distance(torch.tensor([[0.0], [1.0], [3.0]])) == 2.0
    with pytest.raises(BadRequest, match="no length scale"):
        median_distance(torch.ones(3, 2))


def test_values_that_are_not_finite_are_refused():
    sums = RowRegression(CENTERS, 1.5)
    sums.move(MOVED, CHANGES)
    sums.hold(HELD / 0)
    with pytest.raises(BadRequest, match="not finite"):
        sums.solved(ridge=0.1)


def test_scaling_moves_rows_that_share_of_the_way():
    found = solved().map
    half = found.scaled(0.5).of(MOVED) - MOVED
    assert torch.allclose(half, 0.5 * (found.of(MOVED) - MOVED))
    assert isinstance(found, RowMap)
