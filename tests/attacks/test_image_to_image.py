"""At strength 0 the picture comes back, at 1 nothing of it is left, and the cost is the steps."""

import pytest
import torch

from efface.attacks.image_to_image import ImageToImage
from efface.errors import BadRequest
from efface.randomness import noise_like
from efface.revival.redrawing import continued, noised_for, steps_done
from tests.attacks.toys import course, erasure, generator, left_as_found, seen_nowhere, target_of

PICTURES = 0.3 * torch.randn(2, 4, 8, 8, generator=generator(7))


def test_at_strength_0_it_is_the_picture_and_costs_nothing(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1), pictures=PICTURES, look=seen_nowhere)
    with left_as_found(tiny_sd1):
        (attempts,) = course(ImageToImage(pictures=2, strengths=(0.0,)), target)
    for trial, attempt in enumerate(attempts):
        assert torch.equal(attempt.clean, PICTURES[trial])
        assert attempt.spent == 0
    assert target.evaluations == target.setup == 0


@pytest.mark.thorough
def test_more_strength_is_farther_from_the_picture_and_costs_more(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1), steps=10, pictures=PICTURES, look=seen_nowhere)
    turns = course(ImageToImage(pictures=2, strengths=(0.9, 0.5, 0.2)), target)
    far = [float((turn[0].clean - PICTURES[0]).norm()) for turn in turns]
    assert far == sorted(far, reverse=True)
    assert [turn[0].spent for turn in turns] == [18, 10, 4]
    assert target.setup == 2 * (18 + 10 + 4), "the controls"
    assert target.evaluations - target.setup == 2 * (18 + 10 + 4)


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


def test_a_trial_is_given_up_where_its_control_shows_the_concept(tiny_sd1):
    """The judge sees it in the first picture of each control from the second strength on."""
    asked = []

    def look(images, concept):
        asked.append(len(images))
        return torch.tensor([float(len(asked) > 1 and place == 0) for place in range(len(images))])

    target = target_of(tiny_sd1, None, pictures=PICTURES, look=look)
    turns = course(ImageToImage(pictures=2, strengths=(1.0, 0.7, 0.4)), target)
    assert [[one.trial for one in turn] for turn in turns] == [[0, 1], [1]]
    assert asked == [2, 2, 1]


def test_without_a_judge_it_is_refused(tiny_sd1):
    with pytest.raises(BadRequest, match="give a judge"):
        course(ImageToImage(pictures=2), target_of(tiny_sd1, None, pictures=PICTURES))


@pytest.mark.parametrize("strengths", [(), (1.2,), (0.3, 0.5)])
def test_strengths_that_are_none_are_refused(strengths):
    with pytest.raises(BadRequest, match="strengths is"):
        ImageToImage(strengths=strengths)
