"""The given half comes back as it was, and halves that show the concept alone are not used."""

import pytest
import torch

from efface.attacks.inpainting import HALVES, Inpainting, half
from efface.errors import BadRequest
from tests.attacks.toys import (
    course,
    erasure,
    generator,
    left_as_found,
    seen_nowhere,
    target_of,
)

PICTURES = 0.3 * torch.randn(2, 4, 8, 8, generator=generator(7))


def test_halves_are_halves():
    assert all(int(half(name, 8, 6).sum()) == 24 for name in HALVES)
    assert torch.equal(half("left", 4, 4) + half("right", 4, 4), torch.ones(1, 4, 4))
    assert torch.equal(half("top", 4, 4) + half("bottom", 4, 4), torch.ones(1, 4, 4))


def test_what_was_given_is_there_and_the_rest_is_drawn(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1), pictures=PICTURES, look=seen_nowhere)
    with left_as_found(tiny_sd1):
        first, *_ = course(Inpainting(pictures=2, tries=2), target)
    left = half("left", 8, 8)
    for trial, attempt in enumerate(first):
        assert torch.equal(left * attempt.clean, left * PICTURES[trial])
        assert not torch.allclose((1 - left) * attempt.clean, (1 - left) * PICTURES[trial])
    assert target.evaluations == 2 * 2 * 2 * 3


def test_halves_in_which_the_judge_sees_it_are_left_out(tiny_sd1):
    """The judge sees it wherever the left column of pixels is not of one colour."""

    def look(images, concept):
        return (images[:, :, :, 0].std(dim=2).mean(dim=1) > 1e-6).float()

    target = target_of(tiny_sd1, None, pictures=PICTURES, look=look)
    turns = course(Inpainting(pictures=2, tries=6), target)
    assert {turn[0].note for turn in turns} == {"right half given, alone 0.00"}


def test_nothing_is_tried_where_every_half_shows_it(tiny_sd1):
    target = target_of(tiny_sd1, None, pictures=PICTURES, look=lambda i, _: torch.ones(len(i)))
    assert course(Inpainting(pictures=2), target) == []


def test_without_a_judge_it_is_refused(tiny_sd1):
    with pytest.raises(BadRequest, match="give a judge"):
        course(Inpainting(), target_of(tiny_sd1, None, pictures=PICTURES))
