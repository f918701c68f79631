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


def solve(layers, edit, rows, strength, regularisation="zero_norm", toward=None):
    problem = ReturnProblem.of(joint_factor(layers), edit)
    return returning_rows(
        problem, rows, strength=strength, regularisation=regularisation, toward=toward
    )


def test_the_joint_factor_squares_to_the_sum_over_layers(layers):
    factor = joint_factor(layers)
    expected = sum(weight.T @ weight for weight in layers.values())
    assert torch.allclose(factor.T @ factor, expected)
    rows = drawn(20, 3, WIDTH)
    assert torch.allclose((rows @ factor.T).norm(), responses(layers, rows).norm())


@pytest.mark.parametrize(
    ("regularisation", "left", "right"),
    [
        ("zero_norm", lambda s, lam: s + lam * EYE, lambda b, s, lam: b),
        ("surrogate_values", lambda s, lam: (1 + lam) * s, lambda b, s, lam: b + lam * s),
        ("surrogate_identity", lambda s, lam: s + lam * EYE, lambda b, s, lam: b + lam * EYE),
        (
            "surrogate_both",
            lambda s, lam: (1 + lam) * s + lam * EYE,
            lambda b, s, lam: b + lam * s + lam * EYE,
        ),
    ],
)
def test_the_released_normal_equations_hold(layers, edit, regularisation, left, right):
    """``A e' = B e`` with A and B as sums over all layers, as in the released code."""
    rows, lam = drawn(21, 3, WIDTH), 0.2
    now = {name: weight @ edit for name, weight in layers.items()}
    s = sum(weight.T @ weight for weight in now.values())
    b = sum(now[name].T @ layers[name] for name in layers)
    found = solve(layers, edit, rows, lam, regularisation)
    assert torch.allclose(found @ left(s, lam).T, rows @ right(b, s, lam).T, atol=1e-9)


EYE = torch.eye(WIDTH, dtype=torch.float64)


def test_standard_regularisation_pulls_to_the_given_text(layers, edit):
    rows, toward = drawn(22, 2, WIDTH), drawn(23, 2, WIDTH)
    far = solve(layers, edit, rows, 1e12, "standard", toward)
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


def test_values_surrogate_mixes_the_inversion_with_the_embedding(layers, edit):
    rows = drawn(26, 2, WIDTH)
    mixed = (solve(layers, edit, rows, 0.0) + 0.4 * rows) / 1.4
    assert torch.allclose(solve(layers, edit, rows, 0.4, "surrogate_values"), mixed, atol=1e-9)


def test_limiting_inverts_the_edit_where_it_sees_enough_and_is_silent_elsewhere(layers, edit):
    """With no direction dropped it is the inverse; each one dropped shortens and adds error."""
    rows, factor = drawn(31, 5, WIDTH), joint_factor(layers)
    gains = torch.linalg.svdvals(factor @ edit) ** 2
    inverse = torch.linalg.solve(edit, rows.T).T
    assert torch.allclose(solve(layers, edit, rows, 0.5 * float(gains[-1]), "limited"), inverse)
    lengths, errors = [], []
    for kept in range(WIDTH, 0, -1):
        found = solve(layers, edit, rows, 0.999999 * float(gains[kept - 1]), "limited")
        assert torch.linalg.matrix_rank(found, rtol=1e-9) == min(kept, 5)
        lengths.append(float(found.norm()))
        errors.append(float(((found @ edit.T - rows) @ factor.T).norm()))
    assert lengths == sorted(lengths, reverse=True)
    assert errors == sorted(errors)
    assert float(solve(layers, edit, rows, 1.1 * float(gains[0]), "limited").norm()) == 0


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
