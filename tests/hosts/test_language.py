"""Families that read language models: rows within instructions, and one quick case for each.

The whole suites of families are slow for them.
"""

import pytest
import torch

from efface.concepts import Concept, Erasure, request
from efface.errors import BadRequest
from efface.hosts.families import host_of
from efface.methods.uce import Uce
from efface.text.token_rules import erased_rows, prompt_pairs
from tests.cases import HOST_CASES
from tests.conformance.test_hosts import ends
from tests.conftest import shared
from tests.reference.families import token_rows
from tests.reference.language import LANGUAGE, ROWS

CASES = {case.family: case for case in HOST_CASES if case.family in ROWS}


SLOW = pytest.mark.slow
DEEP = ("flux2klein", "flux2dev")
QUICK = [pytest.param(each, marks=SLOW) if each in DEEP else each for each in LANGUAGE]


@pytest.fixture(params=QUICK)
def family(request):
    return request.param


@pytest.fixture
def pipe(family):
    return shared(CASES[family].host)


@pytest.fixture
def stream(pipe):
    return host_of(pipe).readers[0].streams[0]


@pytest.mark.parametrize("family", ROWS)
def test_it_draws_as_its_pipeline_and_reads_what_that_reads(family, pipe, stream):
    """Two steps with guidance from the same noise; rows to rounding, within the instruction."""
    ours, pipelines, start = ends(CASES[family], steps=2, guidance=CASES[family].guidance)
    assert torch.allclose(pipelines, ours, atol=1e-4)
    assert not torch.allclose(pipelines, start, atol=1e-1)
    ((rows, last),) = token_rows(pipe, family, "a zebra and a cat")
    tokens = stream.tokenised("a zebra and a cat")
    assert torch.allclose(stream.embedded(["a zebra and a cat"])[0], rows, atol=1e-4)
    assert (tokens.last, tokens.read) == (last, len(rows))


def test_a_concept_is_found_in_pieces_and_at_its_last_mention(pipe, stream):
    """Zebra is spelled in letters by these tokenizers; cat is one token."""
    prompt = "a zebra and a cat and a zebra by a lamp"
    first, last = stream.span(prompt, "zebra")
    begin = stream.tokenised(prompt).begin
    assert last - first >= 3
    offsets = stream.tokenised(prompt).offsets
    assert {*range(24, 29)} <= {n for at in offsets[first : last + 1] for n in range(*at)}
    assert offsets[first - 1][1] <= 24 <= 29 <= offsets[last + 1][0] + 1
    cat, same = stream.span(prompt, "CAT")
    assert cat == same
    assert begin < cat < first
    for phrase in ("pistol", ""):
        with pytest.raises(BadRequest, match="is not in the prompt"):
            stream.span(prompt, phrase)


def test_a_name_goes_to_its_anchor_and_what_follows_to_what_follows(stream):
    """Characters decide, since a word after a space is cut otherwise than by itself."""
    zebra = Concept(name="zebra", prompts=("a zebra by a lamp",))
    for anchor, target in (("house", "a house by a lamp"), (None, "a by a lamp")):
        named = None if anchor is None else Concept(name=anchor)
        (pair,) = prompt_pairs(
            stream, Erasure(concept=zebra, anchor=named), "prompt_without_concept"
        )
        assert pair.target == target
        there = stream.span(target, anchor or "a")
        expected = there[1] if anchor else stream.tokenised(target).begin
        assert pair.target_start == expected
        found = erased_rows(stream, pair, "legacy")
        own, other = stream.embedded([pair.source, pair.target])
        assert torch.allclose(found.sources, own[pair.source_start :][: len(found.sources)])
        assert torch.allclose(found.targets, other[expected:][: len(found.sources)])


@pytest.mark.parametrize(
    "family", [each if each == "lumina2" else pytest.param(each, marks=SLOW) for each in ROWS]
)
def test_what_its_layer_makes_of_a_concept_is_erased_and_taken_back(family, pipe, stream):
    layer = pipe.transformer.get_submodule(ROWS[family][0][-1])
    before = layer.weight.detach().clone()
    pistol = Concept(name="pistol", prompts=("a pistol",))
    wanted = request(pistol, anchor="lamp", keep=["cat"])
    delta = (
        Uce(tokens="new", ridge=1e-3)
        .erase(pipe, wanted, generator=torch.Generator().manual_seed(0))
        .delta
    )
    pistol, lamp = (stream.embedded([text])[0].float() for text in ("a pistol", "a lamp"))
    here, there = (stream.tokenised(text).last for text in ("a pistol", "a lamp"))
    with torch.no_grad():
        aim, was = layer(lamp[there]), layer(pistol[here])
        with delta.apply(pipe):
            now = layer(pistol[here])
    assert (now - aim).norm() < 0.1 * (was - aim).norm()
    assert torch.equal(layer.weight, before)


def test_long_prompts_and_embeddings_of_no_token_are_refused(pipe):
    known = host_of(pipe)
    with pytest.raises(BadRequest, match="more tokens than the"):
        known.rows.tokenised("lamp " * 3000)
    width = known.rows.blocks[0]
    with pytest.raises(BadRequest, match="within an instruction"):
        known.encode(["cat"], prefix={"text_encoder": torch.zeros(1, width)})
