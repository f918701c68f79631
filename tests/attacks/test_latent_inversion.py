"""A picture comes again from the noise that it was traced back to, with the edited model."""

import pytest
import torch

from efface.attacks.latent_inversion import LatentInversion
from efface.revival.drawing import decoded
from tests.attacks.toys import course, drawn, erasure, generator, left_as_found, target_of

PICTURES = 0.2 * torch.randn(2, 4, 8, 8, generator=generator(7))


@pytest.mark.thorough
def test_without_guidance_it_returns_near_the_picture(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1), steps=40, guidance=1.0)
    with left_as_found(tiny_sd1):
        there = decoded(tiny_sd1, target.pictures(2))
        attack = LatentInversion(pictures=1, steps=40, drawn="unguided")
        (attempts,) = course(attack, target)
        found = drawn(target, attempts)
    for picture in found:
        assert float((picture - there[0]).norm()) < 0.3 * float((there[1] - there[0]).norm())
    assert [one.spent for one in attempts] == [40, 40]
    assert target.evaluations - target.setup == 80


def test_trials_take_pictures_in_turn(tiny_sd1):
    target = target_of(tiny_sd1, None, pictures=PICTURES)
    first, second = course(LatentInversion(pictures=2, steps=2, words="empty"), target)
    assert torch.allclose(first[0].noise, second[1].noise, atol=1e-5)
    assert torch.allclose(first[1].noise, second[0].noise, atol=1e-5)
    assert not torch.allclose(first[0].noise, first[1].noise, atol=1e-3)
