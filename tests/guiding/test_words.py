"""Words as places of tokens; maps of words: shared out anew, smoothed, averaged over pieces."""

import pytest
import torch

from efface.errors import BadRequest
from efface.guiding.words import WordMaps, smoothed, smoothing_kernel, subjects, word_places
from efface.hosts.families import host_of
from tests.conftest import shared


@pytest.fixture(scope="module")
def stream():
    return host_of(shared("tiny_sd1")).readers[0].streams[0]


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_word_is_its_pieces_between_those_around_it(stream):
    prompt = "a cat and a dog"
    before = len(stream.tokenised("a").content)
    places = word_places(stream, prompt, "cat")
    assert places == tuple(range(1 + before, 1 + before + len(stream.tokenised("cat").content)))
    ids = stream.tokenised(prompt).ids
    assert tuple(ids[place] for place in places) == stream.tokenised("cat").content


def test_capitals_and_phrases_are_found(stream):
    assert word_places(stream, "A Cat.", "cat") == word_places(stream, "a cat.", "cat")
    both = word_places(stream, "a red cat", "red cat")
    assert both == (
        *word_places(stream, "a red cat", "red"),
        *word_places(stream, "a red cat", "cat"),
    )


def test_a_word_the_prompt_lacks_is_refused_with_those_it_has(stream):
    with pytest.raises(BadRequest, match=r"has no word 'moon'; name one of its words: a, cat, and"):
        word_places(stream, "a cat and a dog", "moon")
    with pytest.raises(BadRequest, match="has no word 'cat'"):
        word_places(stream, "a catfish", "cat")
    with pytest.raises(BadRequest, match="has no word ''"):
        word_places(stream, "a cat", "")


def test_a_word_that_is_said_twice_is_refused(stream):
    with pytest.raises(BadRequest, match="says 'cat' 2 times; name each thing by more words"):
        word_places(stream, "a red cat and a blue cat", "cat")


@pytest.mark.parametrize("words", [("cat", "Cat"), ("a red cat", "cat"), ("red cat", "a red")])
def test_two_words_that_are_one_in_the_prompt_are_refused(stream, words):
    with pytest.raises(BadRequest, match="are the same word of the prompt 'a red cat', in whole"):
        WordMaps.of(stream, ["a red cat"], [words])


def test_each_prompt_has_those_words_among_many_that_it_says():
    prompts = ["a cat and a dog", "a Dog on the moon"]
    named = ("dog", "cat", "moon", "tree")
    assert subjects(prompts, (), named) == [("dog", "cat"), ("dog", "moon")]
    assert subjects(prompts, ("dog",)) == [("dog",), ("dog",)]


@pytest.mark.parametrize(
    ("words", "among", "message"),
    [
        ((), (), "no word is named"),
        (("cat",), ("dog",), "words and among are both given"),
        (("cat", "cat"), (), "'cat' is named twice"),
        (("cat",), (), r"the prompt 'a dog' has no word 'cat'; name one of its words: a, dog"),
        ((), ("cat", "moon"), r"the prompt 'a dog' has none of the words cat, moon; name one of"),
    ],
)
def test_words_that_cannot_be_guided_are_refused(words, among, message):
    with pytest.raises(BadRequest, match=message):
        subjects(["a cat", "a dog"], words, among)


def test_attention_is_shared_out_as_attend_and_excite_does(stream):
    prompt = "a cat and a dog"
    attention = drawn(1, 4, 4, 24).softmax(dim=-1)
    maps = WordMaps.of(stream, [prompt], [("cat",)], smoothing="none")
    shared_out = (attention[:, :, :, 1:-1] * 100).softmax(dim=-1)
    pieces = word_places(stream, prompt, "cat")
    expected = torch.stack([shared_out[..., place - 1] for place in pieces]).mean(dim=0)
    assert torch.allclose(maps(attention)[:, 0], expected, atol=1e-12)


def test_shares_of_all_positions_sum_to_one(stream):
    attention = drawn(1, 4, 4, 24).softmax(dim=-1)
    for positions in ("all", "words"):
        maps = WordMaps.of(stream, ["a cat"], [("cat",)], positions=positions, smoothing="none")
        every = torch.eye(24)[None]
        whole = WordMaps(every, torch.ones(1, 24, dtype=torch.bool), maps.read, smoothing="none")
        found = whole(attention)
        assert torch.allclose(found.sum(dim=1), torch.ones(1, 4, 4, dtype=torch.float64))
        end = 23 if positions == "all" else stream.tokenised("a cat").end
        assert found[:, 0].abs().max() == found[:, end:].abs().max() == 0


def test_prompts_with_fewer_words_have_empty_places(stream):
    prompts, words = ["a cat and a dog", "a tree"], [("cat", "dog"), ("tree",)]
    maps, attention = WordMaps.of(stream, prompts, words), drawn(2, 4, 4, 24)
    found = maps(attention)
    assert maps.there.tolist() == [[True, True], [True, False]]
    assert not found[1, 1].any()
    alone = WordMaps.of(stream, prompts[1:], words[1:])
    assert torch.allclose(found[1:, :1], alone(attention[1:]), atol=1e-12)
    assert torch.equal(maps[torch.tensor([1])](attention[1:]), found[1:])


def test_kernels_are_those_of_the_code_and_of_its_name():
    released, said = smoothing_kernel("released", 0.5), smoothing_kernel("gaussian", 0.5)
    for kernel, values in ((released, (0.3319, 0.1221, 0.0449)), (said, (0.6193, 0.0838, 0.0113))):
        found = (kernel[1, 1], kernel[0, 1], kernel[0, 0])
        assert [round(float(each), 4) for each in found] == [*values]
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)


def test_smoothing_keeps_a_constant_map_and_mirrors_at_the_edge():
    constant = torch.full((1, 2, 5, 3), 0.3, dtype=torch.float64)
    assert torch.allclose(smoothed(constant, "released"), constant, atol=1e-12)
    maps = drawn(1, 1, 3, 3)
    kernel = smoothing_kernel("released", 0.5)
    m = maps[0, 0]
    # Beyond the corner lie its neighbours again: (-1, -1) is (1, 1).
    window = torch.stack(
        [m[[1, 1, 1], [1, 0, 1]], m[[0, 0, 0], [1, 0, 1]], m[[1, 1, 1], [1, 0, 1]]]
    )
    assert float(smoothed(maps, "released")[0, 0, 0, 0]) == pytest.approx(
        float((window * kernel).sum()), abs=1e-12
    )
