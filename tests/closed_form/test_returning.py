"""Embeddings that bring a concept back: stationarity, exact inversion, monotone in the penalty."""

import pytest
import torch

from efface.closed_form.returning import ReturnProblem, cost_to_regenerate, returning_rows
from efface.text.attention import joint_factor, responses

WIDTH = 6


def drawn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def layers():
    return {str(n): drawn(n, 4 + n, WIDTH) for n in range(4)}


@pytest.fixture
def edit():
    return torch.eye(WIDTH, dtype=torch.float64) + 0.3 * drawn(9, WIDTH, WIDTH)


def solve(layers, edit, rows, strength, toward=None):
    problem = ReturnProblem.of(joint_factor(layers), edit)
    return returning_rows(problem, rows, strength=strength, toward=toward)


def test_the_joint_factor_squares_to_the_sum_over_layers(layers):
    factor = joint_factor(layers)
    expected = sum(weight.T @ weight for weight in layers.values())
    assert torch.allclose(factor.T @ factor, expected)
    rows = drawn(20, 3, WIDTH)
    assert torch.allclose((rows @ factor.T).norm(), responses(layers, rows).norm())


@pytest.mark.parametrize("pulled", [False, True])
def test_the_released_normal_equations_hold(layers, edit, pulled):
    """``(lam I + S) e' = B e + lam toward`` with sums over all layers, row i to row i."""
    rows, lam = drawn(21, 3, WIDTH), 0.2
    toward = drawn(22, 3, WIDTH) if pulled else None
    now = {name: weight @ edit for name, weight in layers.items()}
    s = sum(weight.T @ weight for weight in now.values())
    b = sum(now[name].T @ layers[name] for name in layers)
    right = rows @ b.T + (lam * toward if pulled else 0)
    found = solve(layers, edit, rows, lam, toward)
    assert torch.allclose(found @ (s + lam * EYE).T, right, atol=1e-9)


EYE = torch.eye(WIDTH, dtype=torch.float64)


def test_standard_regularisation_pulls_to_the_given_text(layers, edit):
    rows, toward = drawn(22, 2, WIDTH), drawn(23, 2, WIDTH)
    far = solve(layers, edit, rows, 1e12, toward)
    assert torch.allclose(far, toward, atol=1e-6)


def test_without_a_penalty_the_edit_is_inverted(layers, edit):
    rows = drawn(24, 3, WIDTH)
    assert torch.allclose(solve(layers, edit, rows, 0.0) @ edit.T, rows, atol=1e-9)
    assert torch.allclose(solve(layers, EYE, rows, 0.0), rows, atol=1e-9)


def test_a_higher_penalty_gives_shorter_embeddings_and_larger_errors(layers, edit):
    rows = drawn(25, 1, WIDTH)
    lengths, errors = [], []
    for strength in (0.0, 0.1, 1.0, 10.0, 1e4):
        back = solve(layers, edit, rows, strength)
        lengths.append(float(back.norm()))
        errors.append(float((responses(layers, back @ edit.T) - responses(layers, rows)).norm()))
    assert lengths == sorted(lengths, reverse=True)
    assert errors == sorted(errors)
    assert lengths[-1] < 0.05 * lengths[0]


def test_the_cost_is_the_shortest_length_within_reach(layers, edit):
    """Checks the found length against many random embeddings that are as close."""
    rows, targets = drawn(27, 1, WIDTH), drawn(28, 1, WIDTH)
    factor = joint_factor(layers)
    problem = ReturnProblem.of(factor, edit)
    cost = float(cost_to_regenerate(problem, rows, targets)[0])
    allowed = 0.1 * float(((targets - rows) @ factor.T).norm())
    exact = torch.linalg.solve(edit, rows.T).T
    for seed in range(200):
        step = drawn(100 + seed, 1, WIDTH)
        step *= allowed / float((step @ edit.T @ factor.T).norm())
        assert float((exact + step).norm() / rows.norm()) >= cost - 1e-9
    assert cost < float(exact.norm() / rows.norm())


def test_shrinking_what_layers_see_of_a_concept_raises_its_cost(layers):
    rows, targets = drawn(29, 1, WIDTH), drawn(30, 1, WIDTH)
    direction = rows / rows.norm()
    factor = joint_factor(layers)
    costs = []
    for left in (1.0, 0.3, 0.1):
        edit = EYE - (1 - left) * direction.T @ direction
        costs.append(float(cost_to_regenerate(ReturnProblem.of(factor, edit), rows, targets)[0]))
    assert costs[0] <= 1.0
    assert costs[0] < costs[1] < costs[2]
