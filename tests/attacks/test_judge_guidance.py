"""A judge's gradient raises what it sees, and a judge without one is refused."""

import pytest
import torch

from efface.attacks.judge_guidance import JudgeGuidance
from efface.bundled.judge import EmojiJudge
from efface.concepts import Concept
from efface.errors import BadRequest
from tests.attacks.toys import course, drawn, erasure, generator, left_as_found, target_of


def redness(images, concept):
    """Sees red pictures, as log-odds."""
    return 20 * (images[:, 0] - images[:, 1:].mean(dim=1)).mean(dim=(1, 2))


@pytest.mark.thorough
def test_pictures_turn_towards_what_the_judge_likes(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1), steps=6, logits=redness)
    with left_as_found(tiny_sd1):
        turns = course(JudgeGuidance(scales=(0.0, 0.3)), target)
        plain, led = (redness(drawn(target, turn), None) for turn in turns)
    assert bool((led > plain).all())
    assert turns[0][0].spent == 6 + 5
    assert target.evaluations - target.setup == sum(one.spent for turn in turns for one in turn)


def test_a_judge_without_gradient_is_refused(tiny_sd1):
    with pytest.raises(BadRequest, match="follows a judge's gradient"):
        course(JudgeGuidance(), target_of(tiny_sd1, None))


@pytest.mark.parametrize("name", ["cat", "neon"])
def test_the_bundled_judge_s_log_odds_are_those_of_its_probabilities(name):
    judge, images = EmojiJudge(), torch.rand(3, 3, 64, 64, generator=generator())
    images.requires_grad_()
    found = judge.logits(images, Concept(name=name))
    assert torch.allclose(found.sigmoid(), judge.presence(images, Concept(name=name)), atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), images)
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())
    with pytest.raises(BadRequest, match="cannot recognise 'blicket'"):
        judge.logits(images, Concept(name="blicket"))
