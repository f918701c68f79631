"""Embeddings of no token in a prompt: where they go, what stays, how room is made."""

import pytest
import torch

from efface.errors import BadRequest
from efface.hosts.embedding import TokenisedPrompt
from efface.text.free_places import with_free_places

ROWS = torch.arange(8.0)[:, None].expand(8, 2)
"""Position n holds n: begin 0, content 1 to 4, end 5, padding 6 and 7."""
PROMPT = TokenisedPrompt("a b c d", tuple(range(8)), end=5)
FREE = torch.tensor([[-1.0, -1.0], [-2.0, -2.0]])
NAME = (2, 3)


def placed(placement, free=FREE, prompt=PROMPT, span=NAME):
    rows = with_free_places(ROWS, free, prompt, placement, span)
    return rows[:, 0].int().tolist()


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("prefix", [0, -1, -2, 1, 2, 3, 4, 5]),
        ("suffix", [0, 1, 2, 3, 4, -1, -2, 5]),
        ("insert", [0, 1, -1, 2, -2, 3, 4, 5]),
        ("replace", [0, 1, -1, -2, 4, 5, 6, 7]),
    ],
)
def test_two_embeddings_go_where_the_placement_says(placement, expected):
    assert placed(placement) == expected


def test_a_shorter_name_is_filled_up_with_padding():
    assert placed("replace", FREE[:1]) == [0, 1, -1, 4, 5, 6, 7, 7]


@pytest.mark.parametrize("placement", ["prefix", "suffix", "insert"])
def test_no_embedding_leaves_the_prompt(placement):
    assert placed(placement, FREE[:0]) == [*range(8)]


def test_gradients_reach_the_embeddings():
    free = FREE.clone().requires_grad_()
    with_free_places(ROWS, free, PROMPT, "insert", NAME).sum().backward()
    assert torch.equal(free.grad, torch.ones(2, 2))


def test_a_prompt_without_room_is_refused():
    long = TokenisedPrompt("a b c d e", tuple(range(8)), end=6)
    with pytest.raises(BadRequest, match="'a b c d e' with 2 embeddings beside it is longer than"):
        placed("prefix", prompt=long)
    assert placed("replace", prompt=long)[2:4] == [-1, -2]
