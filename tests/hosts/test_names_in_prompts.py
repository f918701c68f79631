"""Where a name's tokens are: in capitals, in quotes, of several vectors, or nowhere."""

import pytest
import torch

import efface
from efface.concepts import Concept
from efface.errors import BadModel, BadRequest
from efface.hosts.embedding import Embedder
from efface.hosts.families import tiny_pipeline
from tests.conftest import host

NAMES = {
    "two names": ["monet", "Monet"],
    "a synonym": Concept(name="monet", kind="style", synonyms=("Monet",)),
    "own prompts": Concept(name="monet", kind="style", prompts=("art by monet", "art by Monet")),
    "in quotes": Concept(name="monet", kind="style", prompts=('art by "monet"',)),
}


@pytest.mark.parametrize(
    ("family", "which"),
    [
        *(("sd1", which) for which in NAMES),
        ("flux", "in quotes"),
        *(pytest.param("flux", which, marks=pytest.mark.slow) for which in [*NAMES][:3]),
    ],
)
def test_names_are_found_whatever_their_capitals(family, which):
    rule = {"target": "prompt_without_concept", "kind": "style"}
    found = efface.erase(tiny_pipeline(family), NAMES[which], method="uce", **rule)
    assert found.diagnostics["erased_response"] > 0


def test_capitals_that_clip_does_not_see_change_nothing():
    pipe = host("tiny_sd1")
    one = efface.erase(pipe, "monet", method="uce").delta
    both = efface.erase(pipe, ["monet", "Monet"], method="uce").delta
    assert torch.equal(
        one.tensors()["unet/key_value::right"], both.tensors()["unet/key_value::right"]
    )


def test_t5_finds_the_pieces_that_hold_the_letters():
    embedder = Embedder(tiny_pipeline("flux"), suffix="_2", length=24)
    first, last = embedder.span('art by "monet"', "monet")
    tokens = embedder._tokenizer.convert_ids_to_tokens(embedder.tokenised('art by "monet"').ids)
    assert "monet" in "".join(tokens[first : last + 1])
    assert embedder.span("art by Monet", "monet")[0] == embedder.span("art by Monet", "Monet")[0]


def test_a_name_without_tokens_is_told_from_one_that_is_absent():
    embedder = Embedder(host("tiny_sd1"))
    with pytest.raises(BadRequest, match="the tokens of 'cat' are not in the prompt 'a dog'"):
        embedder.span("a dog", "cat")
    with pytest.raises(BadRequest, match=r"tokenizer of text_encoder has no tokens for ''"):
        embedder.span("a dog", "")
    unknown = Embedder(tiny_pipeline("flux"), suffix="_2", length=24)
    with pytest.raises(BadRequest, match=r"text_encoder_2 has no tokens for '\u624b\u67aa'"):
        unknown.span("\u624b\u67aa", "\u624b\u67aa")


def test_a_textual_inversion_of_several_vectors_is_read_whole():
    pipe = host("tiny_sd1")
    pipe.tokenizer.add_tokens(["<toy>", "<toy>_1", "<toy>_2"])
    ids = Embedder(pipe).tokenised("a <toy>").content
    assert pipe.tokenizer.convert_ids_to_tokens(ids)[1:] == ["<toy>", "<toy>_1", "<toy>_2"]
    assert Embedder(pipe).span("a <toy>", "<toy>") == (2, 4)


def test_a_tokenizer_that_pads_beyond_the_encoder_is_refused():
    pipe = host("tiny_sd1")
    pipe.tokenizer.model_max_length = int(1e30)
    with pytest.raises(BadModel, match="and text_encoder reads 24; set model_max_length"):
        Embedder(pipe)
