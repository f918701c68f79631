"""The projection against an independent solver, and the identities that it must have."""

import math

import pytest
import torch
from scipy.optimize import minimize

from efface.errors import BadRequest
from efface.selection.projection import drawn_set, projected, smallest

CASES = [(count, total) for count in (1, 2, 5, 8) for total in (0, 0.3, 1, count / 2, count)]


def points(count, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("count", "total"), [case for case in CASES if case[1] <= case[0]])
def test_it_is_the_nearest_point_as_a_solver_of_quadratic_programs_finds_it(count, total):
    for seed in range(3):
        point = points(count, seed, 1.5)
        found = projected(point, total)
        solved = minimize(
            lambda w, a: ((w - a) ** 2).sum(),
            [total / count] * count,
            args=(point.numpy(),),
            jac=lambda w, a: 2 * (w - a),
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - total},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        torch.testing.assert_close(found, torch.from_numpy(solved.x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("total", [0, 1, 45.5, 450, 4499.25, 5000])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_sum_is_exact_and_order_is_kept_for_any_scale(total, scale):
    point = points(5000, 1, scale)
    found = projected(point, total)
    assert found.min() >= 0
    assert found.max() <= 1
    assert abs(float(found.sum()) - total) <= 1e-9 * max(1, scale)
    assert (found[point.argsort()].diff() >= 0).all()


def test_feasible_points_stay_and_shifts_do_not_matter():
    point = points(300, 2)
    found = projected(point, 40)
    torch.testing.assert_close(projected(found, 40), found, atol=1e-12, rtol=0)
    torch.testing.assert_close(projected(point + 77.7, 40), found, atol=1e-11, rtol=0)


def test_two_points_come_no_further_apart():
    for seed in range(20):
        one, other = points(50, seed), points(50, seed + 100, 2.0)
        apart = (projected(one, 7) - projected(other, 7)).norm()
        assert apart <= (one - other).norm() + 1e-12


def test_equal_entries_share_the_sum():
    assert projected(torch.full((8,), 3.0), 2).tolist() == [0.25] * 8
    assert projected(torch.tensor([5.0, 5.0, -9.0]), 1.5).tolist() == [0.75, 0.75, 0.0]


def test_a_large_step_gives_the_smallest_losses():
    """Without a norm term and with large steps the weights are 1 at the m smallest losses."""
    losses = points(100, 5)
    weights = projected(0.1 - 1e6 * losses, 10)
    assert set(weights.nonzero().flatten().tolist()) == set(smallest(losses, 10).tolist())
    reverse = projected(0.1 + 1e6 * losses, 10)
    assert not (weights * reverse).any()


def test_the_fixed_point_with_a_norm_term_is_the_projection_of_the_scaled_losses():
    """w = Proj(w - s (g + 2 c w)) holds at Proj(-g / 2c); steps of s c < 1 arrive there."""
    losses, gamma, step = points(40, 6), 0.3, 1.0
    weights = torch.full((40,), 0.25, dtype=torch.float64)
    for _ in range(300):
        weights = projected(weights - step * (losses + 2 * gamma * weights), 10)
    torch.testing.assert_close(weights, projected(-losses / (2 * gamma), 10), atol=1e-9, rtol=0)


@pytest.mark.parametrize("total", [-1, 4, math.nan])
def test_impossible_sums_are_refused(total):
    with pytest.raises(BadRequest, match="of 3 candidates"):
        projected(torch.zeros(3), total)


def test_points_that_are_not_finite_are_refused():
    with pytest.raises(BadRequest, match="not finite"):
        projected(torch.tensor([0.0, math.nan]), 1)


def test_draws_have_the_size_and_the_chances_that_weights_say():
    weights = torch.tensor([1.0, 0.0, 0.5, 0.25, 0.25, 1.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([drawn_set(weights, generator) for _ in range(2000)])
    assert drawn.shape == (2000, 3)
    assert all(len(set(one.tolist())) == 3 for one in drawn)
    shares = torch.bincount(drawn.flatten(), minlength=6) / 2000
    assert shares[0] == shares[5] == 1
    assert shares[1] == 0
    torch.testing.assert_close(shares.double(), weights, atol=0.05, rtol=0)


def test_of_equal_losses_the_earlier_are_taken():
    assert smallest(torch.tensor([1.0, 0.0, 0.0, 0.0]), 2).tolist() == [1, 2]
