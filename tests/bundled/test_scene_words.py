"""Words and prompts of scenes, and what training shows: layouts, captions, what is held out."""

import sys
from collections import Counter
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from efface.bundled import scene_prompts, scene_wordings
from efface.bundled.scene_wordings import KEPT_OUT, counted, held_out, placed, plural, together
from efface.bundled.vocabulary import HELD_OUT, NOUNS, STYLES, TWO_OBJECT
from efface.errors import BadRequest

sys.path.insert(0, str(Path(__file__).parents[2] / "emoji"))
from render import jitter
from scenes import Drawn, caption_of, row, scenes, view
from styles import FILTERS


def made(count, seed):
    return list(islice(scenes(np.random.default_rng(seed)), count))


@pytest.fixture(scope="module")
def trained():
    """Scenes as training has them."""
    return made(1500, 7)


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
    assert Counter(len(each.nouns) for each in trained).keys() == {1, 2, 3}
    assert held_out(["cat", "moon", "coffee"])
    assert not held_out(["cat", "moon"])


def test_scenes_are_those_of_their_seed_mostly_of_one_thing_or_two(trained):
    assert made(1500, 7) == trained
    assert made(50, 8) != trained[:50]
    different = Counter(len(each.nouns) for each in trained if len(set(each.nouns)) > 1)
    alone = [each for each in trained if len(each.nouns) == 1]
    assert 0.31 < len(alone) / 1500 < 0.39
    assert 0.41 < different[2] / 1500 < 0.49
    assert 0.09 < different[3] / 1500 < 0.15
    assert 0.4 < sum(each.plain for each in alone) / len(alone) < 0.5
    assert sum(each.plain for each in trained if len(each.nouns) > 1) > 0.8 * (1500 - len(alone))


def test_one_thing_is_in_the_middle_and_two_at_the_ends():
    for nouns, slots in (
        (("cat",), (None, "cat", None)),
        (("cat", "moon"), ("cat", None, "moon")),
        (("cat", "moon", "owl"), ("cat", "moon", "owl")),
    ):
        assert Drawn(nouns, "neon", plain=False).slots == slots


def test_a_slot_is_drawn_as_the_pictures_of_the_bundled_model_are():
    art = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 4), dtype=np.uint8))
    for style in STYLES:
        views = [view(each, style, np.random.default_rng(3)) for each in (art, None)]
        plain = FILTERS[style](jitter(art, np.random.default_rng(3), scale=(0.86, 1.0)))
        assert views[0].tobytes() == plain.tobytes()
        assert len(np.unique(np.asarray(views[1]).reshape(-1, 3), axis=0)) == 1
        drawn = np.asarray(row(views))
        assert drawn.shape == (64, 128, 3)
        assert (drawn[:, :64] == np.asarray(views[0])).all()


def test_captions_name_all_that_is_there_in_its_order_and_on_its_side(trained):
    generator, placed_ones = torch.Generator().manual_seed(0), Counter()
    for each in [one for one in trained if len(set(one.nouns)) == len(one.nouns) > 1]:
        text = caption_of(each, generator)
        said = scene_wordings.read(text.split(" style")[0].rsplit(", ", 1)[0])
        if each.plain:
            said = scene_wordings.read(text)
        if said is None:  # "a neon emoji of ..."
            assert not each.plain
            continue
        placed_ones[said.place] += 1
        turned = said.place == "right of"
        assert said.nouns == (each.nouns[::-1] if turned else each.nouns)
    assert min(placed_ones["left of"], placed_ones["right of"]) > 50


def test_a_caption_without_a_style_is_of_a_scene_that_needs_none():
    generator = torch.Generator().manual_seed(0)
    pair = ("cat", "moon")
    texts = {caption_of(Drawn(pair, "3d", plain=True), generator) for _ in range(40)}
    assert {"a cat and a moon", "a cat left of a moon", "a moon right of a cat"} <= texts
    assert not any("3d" in text for text in texts)
    texts = {caption_of(Drawn(pair, "neon", plain=False), generator) for _ in range(40)}
    assert all("neon" in text for text in texts)
    assert caption_of(Drawn(("cat",) * 3, "3d", plain=True), generator) == "three cats"


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
    beside = scene_prompts.positions(66)
    assert [each.place for each in beside[:4]] == ["left of", "right of"] * 2
    left = {each.nouns if each.place == "left of" else each.nouns[::-1] for each in beside}
    assert len(left) == 66


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
