"""What attacks on one model draw alike is drawn once, and counted for each of them."""

import torch

from efface.concepts import Concept
from efface.contracts import Sample
from efface.revival.shared import MOST, SharedPictures
from efface.revival.target import Target
from tests.conftest import shared

TRIALS = (Sample("a photo of a pistol", 0, "erased"), Sample("a pistol", 1, "erased"))


def test_pictures_of_the_concept_are_drawn_once_and_counted_for_each_attack():
    pictures = SharedPictures()
    first, second = (
        Target(
            shared("tiny_sd1"),
            None,
            Concept(name="pistol"),
            TRIALS,
            steps=2,
            guidance=2.0,
            shared=pictures,
        )
        for _ in range(2)
    )
    drawn = first.pictures(3)
    assert (first.evaluations, first.setup) == (12, 12)
    assert torch.equal(second.pictures(3), drawn)
    assert (second.evaluations, second.setup) == (0, 12)


def test_what_is_remembered_cannot_be_changed_by_who_asked_for_it():
    pictures = SharedPictures()
    pictures.of("one", lambda: torch.zeros(2)).add_(1)
    assert torch.equal(pictures.of("one", lambda: torch.ones(2)), torch.zeros(2))


def test_what_was_asked_for_longest_ago_makes_way():
    pictures = SharedPictures()
    for number in range(MOST):
        pictures.of(number, lambda: torch.zeros(1))
    pictures.of(0, lambda: torch.ones(1))
    pictures.of(MOST, lambda: torch.zeros(1))
    assert pictures.of(0, lambda: torch.ones(1)) == 0
    assert pictures.of(1, lambda: torch.ones(1)) == 1
