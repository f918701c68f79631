"""AUC and thresholds against counting every pair, with ties."""

import math

import pytest
import torch

from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.ranking import area, auc, auc_interval, operating_point


def drawn(seed, n, values=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(values, (n,), generator=generator).double()


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_that_of_all_pairs(seed):
    first, second = drawn(seed, 23), drawn(seed + 50, 31)
    pairs = first[:, None] - second[None]
    wanted = ((pairs > 0).double() + 0.5 * (pairs == 0)).mean()
    assert area(first, second) == pytest.approx(float(wanted), abs=1e-12)
    assert area(first, second) + area(second, first) == pytest.approx(1)
    # Only the order counts.
    assert area(first.exp(), second.exp()) == area(first, second)


def test_the_interval_has_a_width_at_the_ends_and_narrows_with_more():
    low, high = auc_interval(1.0, 20, 20)
    assert 0.8 < low < 1
    assert high == 1
    assert auc_interval(0.0, 20, 20) == pytest.approx((0.0, 1 - low))
    few, many = auc_interval(0.8, 10, 10), auc_interval(0.8, 1000, 1000)
    assert few[0] < many[0] < 0.8 < many[1] < few[1]
    same = auc(torch.ones(30), torch.ones(40))
    assert same.value == 0.5
    assert same.low < 0.5 < same.high
    with pytest.raises(BadRequest, match="no interval"):
        auc_interval(0.5, 0, 3)


def test_the_interval_covers_about_as_often_as_it_says():
    """Normals one apart have an AUC of Phi(1 / sqrt 2) = 0.7602; 30 against 30, 300 times."""
    generator = torch.Generator().manual_seed(3)
    covered = 0
    for _ in range(300):
        found = auc(
            torch.randn(30, generator=generator, dtype=torch.float64) + 1,
            torch.randn(30, generator=generator, dtype=torch.float64),
        )
        covered += found.low <= 0.7602 <= found.high
    assert 0.92 <= covered / 300 <= 0.99


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_within_the_limit_lets_more_through(limit, seed):
    first, second = drawn(seed, 40) + 1, drawn(seed + 9, 40)
    found = operating_point(first, second, false_positive_rate=limit)
    thresholds = [*torch.cat([first, second]).unique().tolist(), math.inf]
    best = max(
        float((first >= one).double().mean())
        for one in thresholds
        if float((second >= one).double().mean()) <= limit
    )
    assert found.true_positives.value == pytest.approx(best)
    assert found.false_positives.value <= limit


def test_equal_scores_fall_on_one_side():
    found = operating_point(torch.ones(10), torch.ones(10), false_positive_rate=0.5)
    assert found.threshold == math.inf
    assert found.true_positives.hits == found.false_positives.hits == 0


def test_one_in_a_hundred_is_allowed():
    negatives = torch.arange(100).double()
    found = operating_point(torch.tensor([98.5, 99.0, 99.5]), negatives, false_positive_rate=0.01)
    assert found.false_positives.hits == 1
    assert found.true_positives.hits == 3  # 98.5 and above, which one negative reaches
    few = operating_point(torch.tensor([98.5]), negatives[-50:], false_positive_rate=0.01)
    assert few.false_positives.hits == few.true_positives.hits == 0


def test_scores_that_are_none_are_refused():
    with pytest.raises(MeasurementFailed, match="1 of 2 scores of positives are not finite"):
        area(torch.tensor([1.0, math.nan]), torch.ones(2))
    with pytest.raises(MeasurementFailed, match="no scores of negatives"):
        area(torch.ones(2), torch.ones(0))
    with pytest.raises(BadRequest, match="one number per picture"):
        area(torch.ones(2, 2), torch.ones(2))
    with pytest.raises(BadRequest, match="false positive rate of 1"):
        operating_point(torch.ones(2), torch.ones(2), false_positive_rate=1.0)
