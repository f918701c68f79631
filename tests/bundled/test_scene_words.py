"""Words and prompts of scenes, and what training shows: layouts, captions, what is held out."""

import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from efface.bundled import scene_prompts, scene_wordings
from efface.bundled.scene_judge import relation
from efface.bundled.scene_wordings import KEPT_OUT, counted, held_out, placed, plural, together
from efface.bundled.vocabulary import HELD_OUT, NOUNS, TWO_OBJECT, canonical
from efface.errors import BadRequest

sys.path.insert(0, str(Path(__file__).parents[2] / "emoji"))
from scenes import SIDE, Drawn, Placed, caption_of, scenes


@pytest.fixture(scope="module")
def trained():
    """Scenes as training has them."""
    return list(scenes(1500, 7))


def test_phrases_name_things_how_many_and_where():
    assert together(["cat"]) == "a cat"
    assert together(["cat", "apple"]) == "a cat and an apple"
    assert together(["cat", "apple", "grapes"]) == "a cat, an apple and some grapes"
    assert counted("apple", 2) == "two apples"
    assert counted("knife", 3) == "three knives"
    assert placed("cat", "left of", "owl") == "a cat left of an owl"
    assert scene_wordings.styled("two apples", "neon") == "two apples, neon style"


def test_plurals_are_words_that_nothing_else_is_called():
    plurals = {plural(noun) for noun in scene_wordings.countable()}
    assert len(plurals) == len(NOUNS) - 2
    assert {"butterflies", "cactuses", "knives", "cats"} <= plurals


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: together([]), "one to three things, not 0"),
        (lambda: together(["cat"] * 4), "one to three things, not 4"),
        (lambda: counted("cat", 4), "two or three of one thing, not 4"),
        (lambda: counted("grapes", 2), "'grapes' cannot be counted"),
        (lambda: counted("zeppelin", 2), "'zeppelin' cannot be counted"),
        (lambda: placed("cat", "under", "owl"), "'under' is no place; choose left of"),
    ],
)
def test_words_that_no_scene_has_are_refused(wrong, says):
    with pytest.raises(BadRequest, match=says):
        wrong()


def test_training_shows_no_pair_or_style_that_is_held_out(trained):
    shown = {frozenset(pair) for each in trained for pair in combinations(each.nouns, 2)}
    assert not shown & KEPT_OUT
    assert not {(noun, each.style) for each in trained for noun in each.nouns} & HELD_OUT
    assert Counter(len(each.things) for each in trained).keys() == {1, 2, 3}
    assert held_out(["cat", "moon", "coffee"])
    assert not held_out(["cat", "moon"])


def test_scenes_are_those_of_their_seed_and_fit_into_the_picture(trained):
    assert list(scenes(1500, 7)) == trained
    assert list(scenes(50, 8)) != trained[:50]
    for each in trained:
        for thing in each.things:
            assert 20 <= thing.across <= SIDE - 20
            assert 20 <= thing.down <= SIDE - 20
        for one, other in combinations(each.things, 2):
            assert max(abs(one.across - other.across), abs(one.down - other.down)) >= 40


def test_captions_name_all_that_is_there_and_where_it_is(trained):
    generator, placed_ones = torch.Generator().manual_seed(0), 0
    for each in [one for one in trained if len(set(one.nouns)) == len(one.things) == 2]:
        text = caption_of(each, generator)
        for place in ("left of", "right of", "above", "below"):
            before, found, after = text.partition(f" {place} ")
            if not found:
                continue
            placed_ones += 1
            words = [before.split(" ", 1)[1], after.split(",")[0].split(" ", 1)[1]]
            first, second = (canonical(word) for word in words)
            seen = {thing.noun: thing.seen for thing in each.things}
            assert relation(seen[first], seen[second]) == place
    assert placed_ones > 50


def test_a_caption_without_a_style_is_of_a_scene_that_needs_none():
    generator = torch.Generator().manual_seed(0)
    things = (Placed("cat", 24, 48, 44), Placed("moon", 72, 48, 44))
    texts = {caption_of(Drawn(things, "3d", plain=True), generator) for _ in range(40)}
    assert "a cat and a moon" in texts
    assert not any("3d" in text for text in texts)
    texts = {caption_of(Drawn(things, "neon", plain=False), generator) for _ in range(40)}
    assert all("neon" in text for text in texts)
    several = Drawn((Placed("cat", 24, 48, 44),) * 3, "3d", plain=True)
    assert caption_of(several, generator) == "three cats"


def test_prompts_that_measure_ask_for_what_was_never_shown_together():
    for each in (*scene_prompts.pairs(60), *scene_prompts.positions(64)):
        assert frozenset(each.nouns) in KEPT_OUT
    assert len({each.prompt for each in scene_prompts.pairs(60)}) == 60
    three = scene_prompts.triples(30)
    assert len({each.prompt for each in three}) == 30
    assert all(held_out(each.nouns) for each in three)
    assert len({noun for each in three for noun in each.nouns}) > 30
    assert scene_prompts.pairs(1)[0].nouns == TWO_OBJECT[0]
    for each in (*scene_prompts.alone(128, style=True), *scene_prompts.pairs(60, style=True)):
        assert not {(noun, each.style) for noun in each.nouns} & HELD_OUT
    assert scene_prompts.counts(2)[0].nouns == ("cat", "cat")
    places = [each.place for each in scene_prompts.positions(8)]
    assert places == ["left of", "right of", "above", "below"] * 2


def test_pixel_art_has_blocks_of_four_at_any_size():
    from PIL import Image

    from styles import pixel_art

    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 4), dtype=np.uint8)
    drawn = np.asarray(pixel_art(Image.fromarray(noise)))
    assert drawn.shape == (96, 96, 3)
    blocks = drawn.reshape(24, 4, 24, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) <= 27


def test_phrases_are_read_as_they_were_written():
    every = [
        *scene_prompts.pairs(66),
        *scene_prompts.triples(30),
        *scene_prompts.positions(64),
        *scene_prompts.counts(62),
    ]
    for each in every:
        assert scene_wordings.read(each.prompt) == each.shown
    assert scene_wordings.read("a kitty and a bow and arrow").nouns == ("cat", "bow and arrow")
    for other in ("a cat", "a bow and arrow", "a cat and a zeppelin", "four cats", "", "cats"):
        assert scene_wordings.read(other) is None
    assert scene_wordings.read("a cat left of a zeppelin") is None
