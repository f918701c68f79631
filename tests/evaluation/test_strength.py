"""The least strength that is enough: a curve that is known, and a search that stops early."""

import pytest
import torch

from efface.contracts import Sample
from efface.errors import BadRequest
from efface.evaluation.strength import Goal, find_strength

SAMPLES = [Sample("a pistol", 0, "erased"), Sample("the pistol", 0, "erased")]


def steep(threshold):
    """Shows the concept below a strength, and never from there on."""
    return lambda strength, samples: [strength < threshold] * len(samples)


def searched(look, **goal):
    made = Goal(**goal)
    return find_strength(look, SAMPLES, made, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("threshold", "tried", "strength"),
    [
        (0.3, [1.0, 0.5, 0.25, 0.375], 0.375),
        (0.8, [1.0, 0.5, 0.75, 0.875], 0.875),
        (1.6, [1.0, 1.5, 1.75, 1.625], 1.625),
        (9.0, [1.0, 1.5, 1.75, 1.875], None),
    ],
)
def test_strengths_are_halved_between_what_is_too_weak_and_what_is_enough(
    threshold, tried, strength
):
    found = searched(steep(threshold), budget=4)
    assert [one.strength for one in found.tries] == tried
    assert found.strength == strength


def test_drawing_stops_when_the_interval_decides():
    found = searched(steep(0.7), budget=2)
    enough, weak = found.tries
    assert (enough.side, weak.side) == ("below", "above")
    assert enough.hits == 0
    assert enough.high <= 0.05
    assert enough.count < 120
    assert weak.count <= 3
    assert found.pictures == enough.count + weak.count


def test_a_strength_that_pictures_do_not_decide_is_not_enough():
    found = searched(steep(0.1), budget=1, pictures=10)
    assert found.tries[0].side is None
    assert found.tries[0].count == 10
    assert found.strength is None


def test_prompts_and_seeds_are_drawn_anew_from_the_generator():
    drawn = []

    def look(_, samples):
        drawn.extend(samples)
        return [True] * len(samples)

    searched(look, budget=3)
    assert {one.prompt for one in drawn} == {"a pistol", "the pistol"}
    assert len({one.seed for one in drawn}) == len(drawn)
    first = list(drawn)
    drawn.clear()
    searched(look, budget=3)
    assert drawn == first


def test_goals_that_make_no_sense_are_refused():
    with pytest.raises(BadRequest, match="the goal is 5; give a share between 0 and 1"):
        Goal(left=5)
    with pytest.raises(BadRequest, match="budget is 0"):
        Goal(budget=0)
    with pytest.raises(BadRequest, match="no prompt of what is erased"):
        find_strength(steep(1), [], Goal(), generator=torch.Generator())
