"""Shares of variance against a worked case, known components and scaling."""

import math

import pytest
import torch

from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.variance import variance_shares


def test_a_case_worked_by_hand():
    """Two trainings, two unlearnings each, two evaluations each.

    Means of unlearnings 2, 4 | 10, 14; of trainings 3, 12; of all 7.5. Evaluations lie 1 from their
    mean: MS_E = 8 * 1 / 4 = 2. MS_U = 2 * (1 + 1 + 4 + 4) / 2 = 10. MS_T = 4 * 2 * 4.5^2 / 1 = 162.
    So sigma_E = 2, sigma_U = (10 - 2) / 2 = 4, sigma_T = (162 - 10) / 4 = 38; of 44 in all.
    """
    found = variance_shares(torch.tensor([[[1.0, 3], [3, 5]], [[9, 11], [13, 15]]]))
    assert found.variances == pytest.approx({"training": 38, "unlearning": 4, "evaluation": 2})
    assert found.shares["training"] == pytest.approx(38 / 44)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.clipped == ()
    # Error of the mean: sd of 3 and 12 over sqrt 2 = 4.5, times t(1) = 12.706.
    assert found.mean.value == 7.5
    assert found.mean.high - 7.5 == pytest.approx(12.706 * 4.5, rel=1e-4)


def test_known_components_are_found():
    """Sigma 2, 1, 0.5 over 400 x 3 x 3: variances 4, 1, 0.25."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    values = 2 * normal(400, 1, 1) + normal(400, 3, 1) + 0.5 * normal(400, 3, 3)
    found = variance_shares(values)
    assert found.variances == pytest.approx(
        {"training": 4, "unlearning": 1, "evaluation": 0.25}, rel=0.15
    )
    again = variance_shares(10 * values.flip(0) + 3)
    assert again.shares == pytest.approx(found.shares)


def test_an_estimate_below_zero_is_set_to_zero_and_named():
    """Unlearnings of a training differ, trainings do not: sigma_T = (0 - 4) / 2 < 0."""
    found = variance_shares(torch.tensor([[[0.0], [2]], [[2], [0]]]))
    assert found.clipped == ("training",)
    assert found.variances == {"training": 0.0, "unlearning": 2.0}
    assert found.repeats["evaluation"] == 1


def test_equal_results_have_no_shares():
    found = variance_shares(torch.full((2, 2, 2), 0.1))
    assert set(found.shares.values()) == {0.0}
    assert found.clipped == ()


def test_what_has_no_spread_is_refused():
    with pytest.raises(MeasurementFailed, match="one result"):
        variance_shares(torch.zeros(1, 1, 1))
    with pytest.raises(MeasurementFailed, match="1 of 4 results are not finite"):
        variance_shares(torch.tensor([[[0.0, math.nan]], [[0.0, 1.0]]]))
    with pytest.raises(BadRequest, match="trainings, unlearnings, evaluations"):
        variance_shares(torch.zeros(3, 3))
