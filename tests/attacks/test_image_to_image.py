"""At strength 0 the picture comes back, at 1 nothing of it is left, and the cost is the steps."""

import pytest
import torch

from efface.attacks.image_to_image import ImageToImage
from efface.errors import BadRequest
from efface.randomness import noise_like
from efface.revival.redrawing import continued, noised_for, steps_done
from tests.attacks.toys import course, erasure, generator, left_as_found, target_of

PICTURES = 0.3 * torch.randn(2, 4, 8, 8, generator=generator(7))


def test_at_strength_0_it_is_the_picture_and_costs_nothing(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1), pictures=PICTURES)
    with left_as_found(tiny_sd1):
        (attempts,) = course(ImageToImage(pictures=2, strengths=(0.0,)), target)
    for trial, attempt in enumerate(attempts):
        assert torch.equal(attempt.clean, PICTURES[trial])
        assert attempt.spent == 0
    assert target.evaluations == target.setup == 0


def test_more_strength_is_farther_from_the_picture_and_costs_more(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1), steps=10, pictures=PICTURES)
    turns = course(ImageToImage(pictures=2, strengths=(0.2, 0.5, 0.9)), target)
    far = [float((turn[0].clean - PICTURES[0]).norm()) for turn in turns]
    assert far == sorted(far)
    assert [turn[0].spent for turn in turns] == [4, 10, 18]
    assert target.evaluations == 2 * (4 + 10 + 18)


def test_drawing_on_from_a_step_is_drawing_whole_where_the_noise_is_exact(tiny_sd1):
    """A run left after two steps and continued ends where the whole run does."""
    target = target_of(tiny_sd1, None, steps=6)
    start = torch.randn(1, 4, 8, 8, generator=generator())
    read = target.denoiser.conditions(["a cat"])
    visited = []
    whole = continued(target, start, read, steer=lambda v: visited.append(v.latents) or v)
    assert torch.allclose(continued(target, visited[4], read, done=2), whole, atol=1e-6)


def test_noised_pictures_have_the_share_of_noise_of_their_step(tiny_sd1):
    target = target_of(tiny_sd1, None, steps=10)
    process, times = target.denoiser.process, target.denoiser.timesteps(10)
    noise = noise_like(PICTURES, generator())
    found = noised_for(target.denoiser, PICTURES, noise, steps=10, done=steps_done(10, 0.5))
    at = times[5].long()
    assert torch.allclose(
        found, (process.signal[at] * PICTURES + process.noise[at] * noise).float(), atol=1e-6
    )


def test_without_the_name_it_is_the_control(tiny_sd1):
    target = target_of(tiny_sd1, None, pictures=PICTURES)
    (attempts,) = course(ImageToImage(pictures=2, strengths=(0.7,), words="nameless"), target)
    assert [one.prompt for one in attempts] == ["a red", "a green"]


@pytest.mark.parametrize("strengths", [(), (1.2,)])
def test_strengths_that_are_none_are_refused(strengths):
    with pytest.raises(BadRequest, match="strengths is"):
        ImageToImage(strengths=strengths)
