"""Embeddings, positions and spans on a real toy encoder; the two token rules and target rules."""

import pytest
import torch

from efface.concepts import Concept, Erasure
from efface.errors import BadModel, BadRequest
from efface.hosts.embedding import Embedder
from efface.randomness import evaluating
from efface.text.token_rules import (
    erased_pairs,
    erased_rows,
    every_row,
    kept_rows,
    prompt_pairs,
)
from tests.conftest import host


@pytest.fixture(scope="module", params=["tiny_sd1", "tiny_sd2"])
def embedder(request):
    return Embedder(host(request.param))


def pairs(embedder, concept, rule, anchor=None):
    return prompt_pairs(embedder, Erasure(concept=concept, anchor=anchor), rule)


def test_positions_follow_from_token_ids_whatever_the_padding(embedder):
    """'a photo of a pistol' is five words, one token each: content at 1 to 5, end at 6."""
    tokens = embedder.tokenised("a photo of a pistol")
    assert (tokens.last, tokens.end, len(tokens.content)) == (5, 6, 5)
    assert (embedder.tokenised("").last, embedder.tokenised(" ").last) == (0, 0)
    assert embedder.tokenised("").content == ()


def test_embeddings_are_what_the_pipeline_gives_its_denoiser(tiny_sd1):
    expected, _ = tiny_sd1.encode_prompt("a red pistol", "cpu", 1, False)
    found = Embedder(tiny_sd1).embedded(["a red pistol"])
    assert found.dtype == torch.float64
    assert torch.allclose(found.float(), expected, atol=1e-6)


def test_prompts_share_their_first_row_and_order_does_not_matter(embedder):
    """The encoder looks back only, so the begin token knows nothing of the prompt."""
    one, two = embedder.embedded(["a cat", "red house"])
    assert torch.allclose(one[0], two[0], atol=1e-5)
    assert torch.equal(embedder.embedded(["red house", "a cat"])[1], one)


def test_spans_are_found_at_the_last_mention(embedder):
    assert embedder.span("a cat by a cat", "cat") == (5, 5)
    assert embedder.span("a house in van gogh style", "Van Gogh") == (4, 5)
    for phrase, words in (("dog", "are not in the prompt"), ("", "has no tokens for")):
        with pytest.raises(BadRequest, match=words):
            embedder.span("a cat", phrase)


def test_a_prompt_longer_than_the_encoder_reads_is_refused(embedder):
    assert embedder.tokenised("a " * 22).end == 23
    with pytest.raises(BadRequest, match="more tokens than the 24"):
        embedder.tokenised("a " * 23)


def test_an_encoder_that_overflows_is_refused():
    pipe = host("tiny_sd1")
    with torch.no_grad():
        next(pipe.text_encoder.parameters()).fill_(float("nan"))
    with pytest.raises(BadModel, match="not finite"):
        Embedder(pipe).embedded(["a cat"])


def test_modes_are_put_back_part_by_part(tiny_sd1):
    part = next(iter(tiny_sd1.unet.children()))
    part.train()
    with evaluating(tiny_sd1.unet):
        assert not part.training
    assert part.training
    assert not tiny_sd1.unet.training
    part.eval()


def test_a_mode_that_is_changed_meanwhile_is_put_back_too(tiny_sd1):
    tiny_sd1.unet.eval()
    with evaluating(tiny_sd1.unet):
        tiny_sd1.unet.conv_in.train()
    assert not tiny_sd1.unet.conv_in.training


def test_the_legacy_rule_takes_last_token_end_and_padding(embedder):
    """A one-word wording against the empty prompt: position 1 on, tails cut, so 24 - 1 rows."""
    pair = pairs(embedder, Concept(name="pistol"), "anchor")[0]
    rows = erased_rows(embedder, pair, "legacy")
    concept, empty = embedder.embedded(["pistol", ""])
    assert torch.equal(rows.sources, concept[1:24])
    assert torch.equal(rows.targets, empty[0:23])


def test_the_new_rule_takes_one_token(embedder):
    pair = pairs(embedder, Concept(name="pistol"), "anchor", Concept(name="red lamp"))[1]
    assert (pair.source, pair.target) == ("a photo of a pistol", "a photo of a red lamp")
    rows = erased_rows(embedder, pair, "new")
    source, target = embedder.embedded([pair.source, pair.target])
    assert torch.equal(rows.sources, source[5:6])
    assert torch.equal(rows.targets, target[6:7])


@pytest.mark.parametrize(
    ("anchor", "target"),
    [(None, "a in red style"), (Concept(name="lamp"), "a lamp in red style")],
)
def test_without_the_concept_the_words_behind_it_align(embedder, anchor, target):
    concept = Concept(name="pistol", prompts=("a Pistol in red style",))
    (pair,) = pairs(embedder, concept, "prompt_without_concept", anchor)
    assert pair.target == target
    assert pair.source_start == 2
    source, aimed = (embedder.tokenised(text).ids for text in (pair.source, pair.target))
    count = len(source) - max(pair.source_start, pair.target_start)
    behind = slice(pair.source_start + 1, pair.source_start + count)
    assert source[behind] == aimed[pair.target_start + 1 : pair.target_start + count]
    rows = every_row(embedder, pair, "prompt_without_concept")
    assert torch.allclose(rows.sources[:2], rows.targets[:2], atol=1e-5)


def test_names_count_as_whole_words_and_synonyms_are_replaced_too(embedder):
    concept = Concept(name="cat", synonyms=("dog",), prompts=("a cat in catty art", "a dog"))
    found = pairs(embedder, concept, "prompt_without_concept", Concept(name="tree"))
    assert [pair.target for pair in found] == ["a tree in catty art", "a tree"]


def test_padding_rows_that_are_equal_are_kept_once(embedder):
    """Four wordings share the begin row, which the legacy rule maps for none of them."""
    erasures = [Erasure(concept=Concept(name="pistol"))]
    rows = erased_pairs(embedder, erasures, tokens="legacy", target="anchor")
    wanted = sum(
        len(erased_rows(embedder, pair, "legacy").sources)
        for pair in pairs(embedder, Concept(name="pistol"), "anchor")
    )
    assert float(rows.weights.sum()) == wanted
    assert len(rows.sources) <= wanted


def test_kept_prompts_give_all_rows_or_the_last(embedder):
    assert torch.equal(kept_rows(embedder, "a cat", "legacy"), embedder.embedded(["a cat"])[0])
    assert torch.equal(kept_rows(embedder, "a cat", "new"), embedder.embedded(["a cat"])[0, 2:3])
    states = torch.ones(77, embedder.width).double()
    assert kept_rows(embedder, "a cat", "new", states).sum() == embedder.width
