"""A token and layers learn together, for all trials at once."""

import pytest
import torch

from efface.attacks.personalisation import Personalisation
from efface.errors import BadRequest
from tests.attacks.toys import course, drawn, erasure, generator, left_as_found, target_of

PICTURES = 0.3 * torch.randn(2, 4, 8, 8, generator=generator(7))
SMALL = {"batch": 2, "pictures": 2, "rank": 2, "marks": (1, 3)}


@pytest.mark.thorough
def test_token_and_layers_move_from_mark_to_mark(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1), pictures=PICTURES)
    with left_as_found(tiny_sd1):
        first, second = course(Personalisation(**SMALL), target)
        assert not torch.equal(drawn(target, first), drawn(target, second))
    tokens = [turn[0].embeddings["text_encoder"] for turn in (first, second)]
    moved = (tokens[0] - tokens[1]).norm(dim=1) > 0
    assert moved.nonzero().flatten().tolist() == [1], (
        "the new token stands first, and only it moves"
    )
    assert [one.prompt for one in first] == ["a red", "a green"]
    assert [one.spent for one in (*first, *second)] == [2, 2, 4, 4]
    assert target.evaluations - target.setup == 6


def test_all_trials_have_the_same_token(tiny_sd1):
    target = target_of(tiny_sd1, erasure(tiny_sd1), pictures=PICTURES)
    with left_as_found(tiny_sd1):
        (attempts,) = course(Personalisation(**SMALL), target, close_after=1)
    rows = [one.embeddings["text_encoder"][1] for one in attempts]
    assert torch.equal(*rows)


def test_marks_out_of_order_are_refused():
    with pytest.raises(BadRequest, match="marks is"):
        Personalisation(marks=(20, 10))
