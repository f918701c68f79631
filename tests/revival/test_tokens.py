"""Chosen tokens in prompts, and the projection onto the simplex."""

import pytest
import torch
from scipy.optimize import minimize

from efface.concepts import Concept
from efface.contracts import Sample
from efface.errors import BadRequest
from efface.revival.target import Target, nameless
from efface.revival.tokens import Tokens, project_to_simplex
from tests.conftest import shared

PISTOL = Concept(name="pistol", synonyms=("red pistol",))
TRIALS = (Sample("a photo of a pistol", 0, "erased"), Sample("cat", 1, "erased"))


@pytest.fixture
def tokens():
    target = Target(shared("tiny_sd1"), None, PISTOL, TRIALS, steps=2, guidance=2.0)
    return Tokens(target)


def test_the_projection_is_the_nearest_point_of_the_simplex():
    """Found by a general solver too."""
    row = torch.tensor([0.9, 0.3, -0.4, 0.5], dtype=torch.float64)
    solved = minimize(
        lambda x: ((x - row.numpy()) ** 2).sum(),
        [0.25] * 4,
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        tol=1e-12,
    )
    assert torch.allclose(project_to_simplex(row), torch.from_numpy(solved.x), atol=1e-5)


def test_the_projection_has_rows_that_sum_to_one_and_stays_there():
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    once = project_to_simplex(rows)
    assert bool((once >= 0).all())
    assert torch.allclose(once.sum(dim=1), torch.ones(5), atol=1e-6)
    assert torch.allclose(project_to_simplex(once), once, atol=1e-6)


def test_a_one_hot_row_stays():
    row = torch.eye(6)[2]
    assert torch.equal(project_to_simplex(row), row)


@pytest.mark.parametrize("placement", ["prefix", "suffix", "insert"])
def test_prompts_keep_their_length_their_words_and_their_end(tokens, placement):
    places = tokens.places([trial.prompt for trial in TRIALS], 2, placement=placement)
    text = shared("tiny_sd1").tokenizer
    for row, chosen, end, trial in zip(
        places.ids.tolist(), places.chosen.tolist(), places.ends.tolist(), TRIALS, strict=True
    ):
        own = text(trial.prompt)["input_ids"]
        assert len(row) == text.model_max_length
        assert row[0] == own[0]
        assert row[end] == own[-1]
        assert [t for at, t in enumerate(row[:end]) if at not in chosen] == own[:-1]


def test_embeddings_of_tokens_give_what_the_tokens_themselves_give(tokens):
    """Encoding from embeddings is encoding of the filled prompt."""
    places = tokens.places(["a photo of a cat"], 2)
    chosen = tokens.allowed.nonzero().flatten()[:2][None]
    told = tokens.words(places, chosen)
    given = tokens.encode(places, tokens.table[chosen], gradients=False)
    own = Target(shared("tiny_sd1"), None, PISTOL, TRIALS, steps=2, guidance=2.0).denoiser
    assert tokens.reads_back(told[0], places.filled(chosen)[0, 1 : places.ends[0]].tolist())
    assert torch.allclose(given.rows, own.host.encode(told).rows, atol=1e-6)


def test_names_that_are_forbidden_cannot_be_spelled(tokens):
    text = shared("tiny_sd1").tokenizer
    spelled = text("pistol", add_special_tokens=False)["input_ids"]
    assert not tokens.allowed[spelled].any()
    assert not tokens.allowed[text.all_special_ids].any()


def test_a_prompt_without_room_is_refused(tokens):
    with pytest.raises(BadRequest, match="40 further tokens is longer than the"):
        tokens.places(["a photo of a cat"], 40)


def test_a_nameless_prompt_has_lost_the_longest_name_first():
    sample = Sample("a red pistol and a pistol", 0, "erased")
    assert nameless(sample, PISTOL).prompt == "a and a"
