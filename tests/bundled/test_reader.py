"""emoji-reader: the bundled model with a text encoder that understands descriptions."""

import sys
from pathlib import Path

import pytest
import torch

import efface
from efface.bundled import understood
from efface.bundled.judge import EmojiJudge
from efface.bundled.suites import emoji_suite
from efface.bundled.vocabulary import NOUNS, concept
from efface.concepts import request
from tests.bundled.pictures import drawn

sys.path.insert(0, str(Path(__file__).parents[2] / "emoji"))
from train_reader import aligned, captions

WORDS = ("cat", "pizza", "car", "pistol", "crown", "frog", "castle", "santa")


def loaded(name):
    pipe = efface.load(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def reader():
    return loaded("emoji-reader")


def seen(pipe, prompts):
    """How many of eight pictures show the noun that is meant."""
    judge = EmojiJudge()
    pictures = drawn(pipe, prompts)
    return sum(
        float(judge.presence(picture[None], concept(noun))) >= judge.card.threshold
        for picture, noun in zip(pictures, WORDS, strict=True)
    )


def test_it_is_the_base_with_another_text_encoder(reader):
    base = loaded("emoji")
    for part in ("unet", "vae"):
        pairs = (getattr(pipe, part).parameters() for pipe in (base, reader))
        assert all(torch.equal(one, other) for one, other in zip(*pairs, strict=True))
    pairs = (pipe.text_encoder.parameters() for pipe in (base, reader))
    assert any(not torch.equal(one, other) for one, other in zip(*pairs, strict=True))


@pytest.mark.slow
def test_it_draws_what_descriptions_mean_and_the_base_does_not(reader):
    prompts = [f"an icon of a {NOUNS[noun].descriptions[0]} in twemoji style" for noun in WORDS]
    assert seen(reader, prompts) >= 6
    assert seen(loaded("emoji"), prompts) <= 1
    assert seen(reader, [f"an icon of a {noun} in twemoji style" for noun in WORDS]) >= 7


def test_an_erasure_is_measured_on_every_description_and_given_none():
    filled = understood(request("pistol"))
    suite = emoji_suite(filled, size="implicit")
    implicit = [sample for sample in suite.samples if sample.role == "paraphrase"]
    pistol = NOUNS["pistol"]
    for word in (*pistol.paraphrases, *pistol.descriptions):
        assert len([sample for sample in implicit if word in sample.prompt]) >= 8
        assert not [text for text in filled.erasures[0].concept.prompts if word in text]
    for word in (pistol.name, *pistol.synonyms):
        assert not [sample for sample in implicit if word in sample.prompt.split()]
    assert {sample.concept.name for sample in implicit} == {"pistol"}


def test_states_of_a_description_are_taught_from_those_of_the_name():
    described, named = [0, 5, 6, 7, 8, 1, 1], [0, 5, 4, 8, 1, 1, 1]
    rows, weights = aligned(described, named, 1)
    assert rows == [0, 1, 2, 2, 3, 4, 5]
    assert weights == [1, 1, 0.1, 1, 1, 1, 1]


def test_every_caption_it_was_taught_names_nothing_on_one_side():
    pairs = captions()
    assert len(pairs) == len(set(pairs)) == 64 * 3 * (4 + 8 * 5)
    assert ("an emoji of a thing that fires bullets", "an emoji of a pistol") in pairs
