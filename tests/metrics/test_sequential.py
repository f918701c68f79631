"""Sequential tests of a rate: hand-computed decisions, and errors however often one looks."""

import math

import pytest
import torch

from efface.errors import BadRequest
from efface.metrics.sequential import RateTest


def first_decision(test, shown):
    hits = 0
    for count, one in enumerate(shown, 1):
        hits += one
        if side := test.decided(hits, count):
            return side, count
    return None, len(shown)


def test_two_hits_in_a_row_are_above_a_twentieth():
    """B(3, 1) / B(1, 1) = 1/3, over 0.05^2: 133, more than 20; one hit gives (1/2) / 0.05 = 10."""
    test = RateTest(0.05)
    assert test.decided(1, 1) is None
    assert test.decided(2, 2) == "above"


def test_misses_alone_decide_where_their_evidence_reaches_one_over_the_error():
    """0.95^-n B(1/2, 19.5 + n) / B(1/2, 19.5), in its own words by the gamma function."""
    side, count = first_decision(RateTest(0.05), [0] * 300)

    def evidence(n):
        mixed = math.lgamma(19.5 + n) + math.lgamma(20) - math.lgamma(20 + n) - math.lgamma(19.5)
        return mixed - n * math.log(0.95)

    assert side == "below"
    assert evidence(count - 1) < math.log(20) <= evidence(count)


@pytest.mark.thorough
@pytest.mark.parametrize(("rate", "wrong"), [(0.2, "below"), (0.1, "above")])
def test_looking_after_every_picture_is_wrong_no_more_often_than_said(rate, wrong):
    """Rates a hair on the other side of the target, 400 runs of up to 300 pictures each."""
    test = RateTest(0.2 - 1e-9 if wrong == "below" else 0.1 + 1e-9, error=0.1)
    draws = torch.rand(400, 300, generator=torch.Generator().manual_seed(0)) < rate
    ended = [first_decision(test, row)[0] for row in draws.long().tolist()]
    assert ended.count(wrong) / len(ended) <= 0.1 + 2 * math.sqrt(0.09 / len(ended))


def test_the_interval_holds_what_is_not_ruled_out():
    test = RateTest(0.05)
    assert test.interval(0, 0) == (0.0, 1.0)
    low, high = test.interval(0, 100)
    assert low == 0.0
    assert 0 < high < 0.05
    assert test.decided(0, 100) == "below"
    low, high = test.interval(9, 10)
    assert 0.05 < low < 0.9 < high
    assert RateTest(low + 1e-6).decided(9, 10) is None
    assert RateTest(low - 1e-6).decided(9, 10) == "above"


def test_shares_outside_0_to_1_are_refused():
    with pytest.raises(BadRequest, match="target is 0; it is a share between 0 and 1"):
        RateTest(0)
    with pytest.raises(BadRequest, match=r"error is 1\.5"):
        RateTest(0.05, 1.5)
