"""Relearning marks, its account, and that the model is itself between marks and afterwards."""

import pytest
import torch

from efface.attacks.relearning import Relearning
from efface.errors import BadRequest
from efface.hosts.components import parameters
from tests.attacks.toys import PISTOL, course, drawn, erasure, generator, left_as_found, target_of

SMALL = {"batch": 2, "pictures": 2, "marks": (1, 3)}
PICTURES = 0.3 * torch.randn(2, 4, 8, 8, generator=generator(7))


@pytest.mark.thorough
@pytest.mark.parametrize("rank", [0, 2])
def test_what_was_learnt_grows_from_mark_to_mark_and_the_model_stays(tiny_sd1, rank):
    target = target_of(tiny_sd1, erasure(tiny_sd1), pictures=PICTURES)
    with left_as_found(tiny_sd1):
        first, second = course(Relearning(rank=rank, **SMALL), target)
        assert not torch.equal(drawn(target, first), drawn(target, second))
    assert first[0].added.keys() == second[0].added.keys() != set()
    assert first[0].added is first[1].added
    assert [one.spent for one in (*first, *second)] == [2, 2, 4, 4]
    assert target.evaluations - target.setup == 6


@pytest.mark.thorough
def test_training_in_pieces_is_training_in_one(tiny_sd1):
    delta = erasure(tiny_sd1)
    whole = {**SMALL, "marks": (3,), "rank": 0}
    pieces = {**SMALL, "marks": (1, 2, 3), "rank": 0}
    ends = [
        course(Relearning(**one), target_of(tiny_sd1, delta, pictures=PICTURES))[-1][0].added
        for one in (whole, pieces)
    ]
    for key, patch in ends[0].items():
        assert torch.allclose(patch.difference, ends[1][key].difference, atol=1e-7)


@pytest.mark.slow
def test_it_learns_on_top_of_a_gate_and_leaves_it_after_an_exception(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1, "spm"), pictures=PICTURES)
    with left_as_found(tiny_sd1), pytest.raises(KeyError), target.edited():
        course_ = Relearning(**SMALL).attempts(target, generator=generator())
        next(course_)
        raise KeyError
    with left_as_found(tiny_sd1):
        course(Relearning(**SMALL), target, close_after=1)


@pytest.mark.thorough
def test_pictures_of_others_are_near_or_far(tiny_sd1):
    others = ("a revolver", "a red pistol emoji", "the church", "a tree", "a lamp", "art by monet")
    held = {}
    for data in ("neighbours", "unrelated"):
        target = target_of(tiny_sd1, erasure(tiny_sd1), others=others)
        course(Relearning(data=data, **SMALL), target)
        held[data] = target.drawn(data, ["unused"], 2)
        assert target.setup > 0
    assert not torch.equal(held["neighbours"], held["unrelated"])


def test_without_others_their_pictures_are_refused(tiny_sd1):
    with pytest.raises(BadRequest, match="no prompts of any were given"):
        course(Relearning(data="unrelated", **SMALL), target_of(tiny_sd1, None))


@pytest.mark.parametrize("marks", [(), (0, 5), (5, 5), (10, 5)])
def test_marks_out_of_order_are_refused(marks):
    with pytest.raises(BadRequest, match="marks is"):
        Relearning(marks=marks)


@pytest.mark.thorough
def test_the_error_of_the_lesson_falls(tiny_sd1):
    """Three hundred small steps on two pictures: the trained model denoises them better."""
    from efface.revival.reconstruction import denoising_errors, noised_pictures

    target = target_of(tiny_sd1, erasure(tiny_sd1), pictures=PICTURES)
    settings = {**SMALL, "marks": (60,), "batch": 4, "learning_rate": 1e-2}
    (attempts,) = course(Relearning(**settings), target)
    read = target.denoiser.conditions([PISTOL.name]).repeated(32)
    errors = []
    for added in ({}, attempts[0].added):
        with target.edited(), target.variant(frozenset(), added) as denoiser, torch.no_grad():
            latents, times, truth = noised_pictures(denoiser, PICTURES, 32, generator(3))
            errors.append(denoising_errors(denoiser, latents, times, read, truth).mean())
    assert errors[1] < errors[0]
    assert any(key.startswith("unet/") for key, _ in parameters(tiny_sd1))
