"""Intervals against hand arithmetic, other libraries and simulated coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from efface.contracts import Estimate
from efface.errors import MeasurementFailed
from efface.metrics.estimates import (
    UNKNOWN,
    compare_means,
    compare_rates,
    corrected_rate,
    is_known,
    mean,
    rate,
    unscored,
    zero_hits_note,
)

NAN = math.nan


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (1, 10), (7, 24), (24, 24), (96, 128)])
def test_rate_is_wilsons_interval_as_scipy_gives_it(hits, count):
    found = rate([1.0] * hits + [0.0] * (count - hits))
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert found.value == hits / count
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.hits, found.count) == (hits, count)


def test_rate_by_hand():
    """1 of 4 with z = 1.96: centre (0.25 + 3.8415/8) / (1 + 3.8415/4) = 0.3725,

    half width 1.96 / 1.9604 * sqrt(0.1875/4 + 3.8415/64) = 0.3269.
    """
    found = rate([1, 0, 0, 0])
    assert (found.low, found.high) == pytest.approx((0.0456, 0.6994), abs=1e-4)


def test_not_scored_is_left_out_and_counted():
    values = [1.0, NAN, 0.0, NAN]
    assert rate(values).count == 2
    assert rate(values).value == 0.5
    assert unscored(values) == 2


@pytest.mark.parametrize("estimate", [rate, mean])
def test_nothing_scored_is_an_error_and_not_a_number(estimate):
    with pytest.raises(MeasurementFailed, match="none of 2 samples was scored"):
        estimate([NAN, NAN])
    with pytest.raises(MeasurementFailed):
        estimate([])


def test_seeds_that_all_agree_count_once_per_prompt():
    """Four prompts with eight identical seeds each hold four independent facts, not 32."""
    values = [1.0] * 16 + [0.0] * 16
    prompts = [index // 8 for index in range(32)]
    expected = stats.binomtest(2, 4).proportion_ci(method="wilson")
    found = rate(values, prompts)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.hits, found.count) == (16, 32)


def test_groups_without_effect_leave_the_interval_alone():
    """Every prompt has the same rate, so there is no variance between groups."""
    values = [1.0, 0.0] * 8
    assert rate(values, [index // 2 for index in range(16)]) == rate(values)


def test_mean_is_the_t_interval_as_scipy_gives_it():
    values = [0.2, 0.5, 0.9, 0.4, 0.7]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    found = mean(values)
    assert (found.value, found.low, found.high) == pytest.approx((0.54, low, high))


def test_mean_of_identical_groups_equals_the_mean_of_the_groups():
    values = [0.2, 0.5, 0.9, 0.4]
    repeated = [value for value in values for _ in range(5)]
    groups = [index // 5 for index in range(20)]
    alone, grouped = mean(values), mean(repeated, groups)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))


def test_one_value_has_no_interval():
    assert math.isnan(mean([0.3]).low)
    assert math.isnan(mean([0.3, 0.4], ["same", "same"]).high)


def test_paired_rates_by_hand():
    """Ten samples: 8 hits before, 2 after, 1 of them gained; so 7 lost.

    McNemar: 1 of 8 changes, two-sided 2 * (1 + 8) / 2**8 = 0.0703.
    """
    before = [1] * 8 + [0, 0]
    after = [1] + [0] * 7 + [1, 0]
    found = compare_rates(before, after)
    assert (found.gained, found.lost) == (1, 7)
    assert found.p_value == pytest.approx(0.0703125)
    assert found.difference.value == pytest.approx(-0.6)
    assert -1 <= found.difference.low < -0.6 < found.difference.high < 0


def test_paired_interval_without_correlation_is_newcombes_unpaired_one():
    """One half of each before value is hit after: phi is 0, so the halves add up in squares."""
    before, after = [1, 1, 0, 0] * 5, [1, 0, 1, 0] * 5
    one = rate(before)
    half = math.hypot(one.value - one.low, one.high - one.value)
    found = compare_rates(before, after).difference
    assert (found.low, found.high) == pytest.approx((-half, half))


def test_no_change_in_twenty_samples_still_has_a_width():
    found = compare_rates([0.0] * 20, [0.0] * 20)
    assert found.p_value == 1
    assert found.difference.high == pytest.approx(rate([0.0] * 20).high)


def test_pairs_scored_only_once_are_left_out():
    found = compare_rates([1, 1, NAN, 0], [0, NAN, 1, 0])
    assert found.difference.count == 2


def test_unpaired_lengths_are_refused():
    with pytest.raises(ValueError, match="pair them"):
        compare_rates([1, 0], [1])


def test_paired_means_are_scipys_paired_t_test():
    before, after = [0.1, 0.4, 0.3, 0.8], [0.2, 0.3, 0.6, 0.9]
    expected = stats.ttest_rel(after, before)
    interval = expected.confidence_interval()
    found = compare_means(before, after)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.difference.low == pytest.approx(interval.low)
    assert (found.gained, found.lost) == (3, 1)


def test_identical_means_do_not_differ():
    found = compare_means([0.5, 0.5], [0.5, 0.5])
    assert (found.difference.value, found.p_value) == (0, 1)


def test_intervals_of_grouped_rates_cover_the_truth():
    """400 simulated runs of 24 prompts x 4 seeds; prompts have their own rates (mean 0.5)."""
    generator = np.random.default_rng(0)
    groups = [index // 4 for index in range(96)]
    grouped = naive = 0
    for _ in range(400):
        prompts = generator.beta(0.6, 0.6, size=24)
        hits = list((generator.random((24, 4)) < prompts[:, None]).reshape(-1).astype(float))
        with_groups, without = rate(hits, groups), rate(hits)
        grouped += with_groups.low <= 0.5 <= with_groups.high
        naive += without.low <= 0.5 <= without.high
    assert grouped / 400 > 0.91
    assert naive / 400 < 0.85  # otherwise the case would not need groups at all


def test_judge_errors_are_removed_when_they_are_known():
    """(0.14 - 0.02) / (0.98 - 0.02) = 0.125."""
    good, bad = Estimate(0.98, 0.95, 0.99, 200, 196), Estimate(0.02, 0.01, 0.05, 200, 4)
    observed = rate([1.0] * 14 + [0.0] * 86)
    corrected = corrected_rate(observed, true_positive_rate=good, false_positive_rate=bad)
    assert corrected == pytest.approx(0.125)
    unknown = corrected_rate(observed, true_positive_rate=UNKNOWN, false_positive_rate=bad)
    assert unknown is None
    blind = corrected_rate(observed, true_positive_rate=bad, false_positive_rate=bad)
    assert blind is None


def test_unknown_is_not_a_measurement():
    assert not is_known(UNKNOWN)
    assert is_known(rate([1, 0]))


def test_zero_hits_say_what_they_do_not_show():
    note = zero_hits_note(rate([0.0] * 120))
    assert note is not None
    assert "2.5 %" in note
    assert zero_hits_note(rate([0.0, 1.0])) is None
