"""The judge of scenes: how it cuts pictures, and what it makes of what is in their slots."""

from functools import cache

import pytest
import torch
from torch.nn.functional import interpolate

from efface.bundled import scene_judge
from efface.bundled.icon_sets import sheet
from efface.bundled.judge import EmojiJudge
from efface.bundled.scene_judge import SceneJudge, Seen, _agrees, _slots, _things, relation
from efface.bundled.scene_wordings import read
from efface.bundled.vocabulary import NOUNS
from efface.concepts import Concept
from efface.errors import MissingInput


@cache
def icon(noun, style="twemoji"):
    """A shipped icon as a square that fills a slot."""
    shown = sheet("nouns")
    place = next(n for n, c in enumerate(shown.cells) if (c["name"], c["maker"]) == (noun, style))
    return interpolate(shown.pictures[place][None, :3].float() / 255, size=64, mode="bicubic")[0]


def scene(*nouns, style="twemoji"):
    """A picture with a thing, or nothing, in each slot."""
    blank = torch.ones(3, 64, 64)
    slots = [blank if noun is None else icon(noun, style).clamp(0, 1) for noun in nouns]
    return torch.cat(slots, dim=2)


@pytest.fixture(scope="module")
def judge():
    return SceneJudge()


def slots(*things):
    """Probabilities of nouns in three slots, 0 but where a thing is: noun, slot, probability."""
    nouns = torch.zeros(3, len(NOUNS))
    for noun, slot, probability in things:
        nouns[slot, list(NOUNS).index(noun)] = probability
    return nouns


def test_a_picture_is_cut_into_squares_from_left_to_right():
    picture = torch.arange(3.0).repeat_interleave(64).expand(2, 3, 64, 192)
    cut = _slots(picture)
    assert cut.shape == (2, 3, 3, 64, 64)
    for slot in range(3):
        assert bool((cut[:, slot] == slot).all())
    assert _slots(torch.rand(1, 3, 32, 96, generator=torch.Generator())).shape[1] == 3
    assert _slots(torch.zeros(1, 3, 48, 80)).shape == (1, 2, 3, 64, 64)
    assert _slots(torch.zeros(1, 3, 80, 20)).shape == (1, 1, 3, 64, 64)


def test_things_of_real_scenes_are_seen_in_their_slots(judge):
    pictures = torch.stack(
        [scene("moon", None, "apple"), scene(None, "pizza", None), scene(None, None, None)]
    )
    seen = judge.things(pictures)
    assert [[(each.noun, each.slot) for each in one] for one in seen] == [
        [("moon", 0), ("apple", 2)],
        [("pizza", 1)],
        [],
    ]
    assert judge.counts(pictures)[0] == {"moon": 1, "apple": 1}
    bar = judge.card.threshold
    for phrase, least in (("a moon and an apple", bar), ("a moon left of an apple", bar)):
        answers = judge.presence(pictures, Concept(name=phrase))
        assert answers[0] >= least
        assert answers[1:].tolist() == [0, 0]
    assert judge.presence(pictures, Concept(name="an apple left of a moon")).tolist() == [0, 0, 0]
    two = torch.stack([scene("apple", None, "apple")])
    assert judge.presence(two, Concept(name="two apples"))[0] >= bar
    assert judge.presence(two, Concept(name="three apples"))[0] == 0


def test_a_square_picture_is_judged_as_by_the_bundled_judge(judge):
    square, plain = torch.stack([icon("owl"), icon("pizza")]), EmojiJudge()
    for noun in ("owl", "neon"):
        concept = Concept(name=noun)
        assert torch.equal(judge.presence(square, concept), plain.presence(square, concept))
        assert torch.equal(judge.logits(square, concept), plain.logits(square, concept))
    assert torch.equal(judge.features(square), plain.features(square))


def test_the_style_is_that_of_the_slot_with_the_surest_thing(judge):
    pictures = torch.stack([scene(None, "owl", None, style="blueprint"), scene("owl", None, None)])
    alone = EmojiJudge().probabilities(torch.stack([icon("owl", "blueprint"), icon("owl")]))[1]
    assert torch.allclose(judge.probabilities(pictures)[1], alone, atol=1e-4)
    logits = judge.logits(pictures, Concept(name="blueprint"))
    assert logits[0] > 0 > logits[1]


def test_of_two_nouns_in_one_slot_the_more_probable_is_there():
    seen = _things(slots(("cat", 1, 0.8), ("dog", 1, 0.9), ("moon", 0, 0.4)), 0.5)
    assert [(each.noun, each.slot) for each in seen] == [("dog", 1)]


def test_slots_that_are_no_numbers_show_nothing(judge):
    assert _things(torch.full((3, len(NOUNS)), torch.nan), 0.5) == ()
    broken = torch.full((1, 3, 64, 192), torch.nan)
    assert bool(judge.presence(broken, Concept(name="two apples")).isnan().all())


def test_a_relation_goes_by_the_slots():
    assert relation(Seen("cat", 0, 1.0), Seen("moon", 2, 1.0)) == "left of"
    assert relation(Seen("cat", 2, 1.0), Seen("moon", 1, 1.0)) == "right of"


def test_a_judge_without_its_card_says_how_it_is_made(monkeypatch, tmp_path):
    monkeypatch.setattr(scene_judge, "weights_folder", lambda: tmp_path)
    with pytest.raises(MissingInput, match=r"scene_judge\.json is missing .*measure_scene_judge"):
        SceneJudge()


@pytest.mark.parametrize(
    ("phrase", "things", "probability"),
    [
        ("a cat and a moon", [("cat", 0, 0.9), ("moon", 2, 0.7)], 0.7),
        ("a cat and a moon", [("cat", 0, 0.9)], 0.0),
        ("a cat and a moon", [("cat", 0, 0.9), ("moon", 0, 0.7)], 0.0),
        ("two cats", [("cat", 0, 0.6), ("cat", 2, 0.9)], 0.6),
        ("two cats", [("cat", 0, 0.9), ("cat", 1, 0.6), ("cat", 2, 0.55)], 0.0),
        ("two cats", [("cat", 0, 0.3), ("cat", 1, 0.6), ("cat", 2, 0.9)], 0.6),
        ("a cat left of a moon", [("cat", 0, 0.9), ("moon", 1, 0.7)], 0.7),
        ("a cat right of a moon", [("cat", 0, 0.9), ("moon", 1, 0.7)], 0.0),
        ("a cat right of a moon", [("cat", 0, 0.6), ("cat", 2, 0.9), ("moon", 1, 0.7)], 0.7),
    ],
)
def test_a_phrase_is_as_probable_as_its_least_thing(phrase, things, probability):
    seen = _things(slots(*things), 0.01)
    assert _agrees(seen, read(phrase), 0.5) == pytest.approx(probability)
