"""What counts as a reproduced number, and which results are drawn."""

import pytest
from benchmarks.check import RESULTS, same, sampled

RATE = {"value": 0.5, "hits": 4, "count": 8}
MEAN = {"value": 0.2, "hits": None, "count": 8}


@pytest.mark.parametrize(
    ("was", "found", "agrees"),
    [
        (RATE, RATE, True),
        (RATE, RATE | {"hits": 5}, True),
        (RATE, RATE | {"hits": 6}, False),
        (RATE, RATE | {"count": 9}, False),
        (RATE, None, False),
        (MEAN, MEAN | {"value": 0.203}, True),
        (MEAN, MEAN | {"value": 0.21}, False),
    ],
)
def test_one_picture_or_two_per_cent_is_the_same_number(was, found, agrees):
    assert same(was, found) is agrees


def test_results_are_drawn_evenly_over_methods_and_again_alike():
    drawn = sampled(20, seed=0)
    assert drawn == sampled(20, seed=0) != sampled(20, seed=1)
    assert len({path.parent for path in drawn}) == 20
    assert all(path.is_relative_to(RESULTS) for path in drawn)
