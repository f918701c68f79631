"""The vocabulary as data, the prompts made from it, and the suite: no weights needed."""

from itertools import combinations

import pytest

import efface
from efface.bundled import understood
from efface.bundled.suites import emoji_suite
from efface.bundled.vocabulary import (
    FIGURES,
    HELD_OUT,
    NOUNS,
    STYLES,
    TWO_OBJECT,
    UNSAFE,
    canonical,
    concept,
    near,
    prompt,
)
from efface.bundled.wordings import keep_set
from efface.concepts import Concept, request
from efface.errors import BadRequest


def test_size_and_groups():
    assert len(NOUNS) >= 64
    assert len(STYLES) == 8
    assert {"pistol", "knife", "bomb", "cigarette", "syringe", "swords"} <= set(UNSAFE)
    assert {"santa", "mage", "vampire", "ninja", "astronaut"} <= set(FIGURES)
    assert {noun.category for noun in NOUNS.values()} >= {"animal", "food", "vehicle", "object"}


def test_every_word_means_one_thing():
    words = [
        word
        for noun in NOUNS.values()
        for word in (noun.name, *noun.synonyms, *noun.paraphrases, *noun.descriptions)
    ]
    assert len(words) == len(set(words))
    assert not set(words) & set(STYLES)
    for noun in NOUNS.values():
        assert set(noun.neighbours) <= set(NOUNS) - {noun.name}


def test_every_noun_and_style_is_trained_in_most_pairs():
    for noun in NOUNS:
        assert sum((noun, style) in HELD_OUT for style in STYLES) <= 2
    for style in STYLES:
        assert sum((noun, style) in HELD_OUT for noun in NOUNS) <= 8
    assert 40 <= len(HELD_OUT) <= 60
    assert tuple(dict.fromkeys(TWO_OBJECT)) == TWO_OBJECT


def test_canonical_names():
    assert canonical(" Gun ") == "pistol"
    assert canonical("thing that fires bullets") == "pistol"
    assert canonical("blueprint") == "blueprint"
    assert canonical("xylophone") is None
    assert concept("gun").synonyms == ("gun", "handgun")
    with pytest.raises(BadRequest, match="xylophone"):
        concept("xylophone")


def test_prompts_have_articles():
    template = "{a} {noun} and {b} {other}, {style} style"
    written = prompt(template, "owl", style="neon", other="grapes")
    assert written == "an owl and some grapes, neon style"


def test_a_request_is_filled_from_the_vocabulary():
    filled = understood(request("pistol"))
    erased = filled.erasures[0].concept
    assert erased.synonyms == NOUNS["pistol"].synonyms
    assert "a gun, neon style" in erased.prompts
    assert len(filled.keep) == len(NOUNS) - 1
    style = understood(request("blueprint")).erasures[0].concept
    assert style.kind == "style"
    assert all("blueprint" in text for text in style.prompts)


def test_what_the_user_gave_is_left_alone():
    own = Concept(name="pistol", prompts=("my pistol",))
    given = request(own, keep=["cat"])
    assert understood(given).erasures[0].concept == own
    assert [one.name for one in understood(given).keep] == ["cat"]
    unknown = understood(request("xylophone"))
    assert unknown.erasures[0].concept.prompts == ()


@pytest.mark.parametrize("name", ["pistol", "cat", "blueprint"])
@pytest.mark.parametrize("size", ["smoke", "sweep", "benchmark", "implicit", "standard"])
def test_evaluation_prompts_are_in_no_erase_or_keep_set(name, size):
    filled = understood(request(name))
    used = set(filled.erasures[0].concept.prompts)
    used |= {text for kept in filled.keep for text in kept.prompts}
    assert not used & {sample.prompt for sample in emoji_suite(filled, size=size).samples}


def test_keep_sets_never_name_what_is_erased():
    kept = [text for one in keep_set(request(["pistol", "blueprint"])) for text in one.prompts]
    for word in ("pistol", "gun", "blueprint"):
        assert not [text for text in kept if word in text]


def test_roles_of_a_noun():
    suite = emoji_suite(understood(request("pistol")), size="standard")
    by_role = {
        role: [s for s in suite.samples if s.role == role]
        for role in ("erased", "synonym", "paraphrase", "neighbour", "kept", "general")
    }
    assert all(by_role.values())
    assert len(by_role["erased"]) == 64
    assert {s.concept.name for s in by_role["erased"]} == {"pistol"}
    assert not [s for s in by_role["synonym"] if "pistol" in s.prompt]
    assert {s.concept.name for s in by_role["neighbour"]} == set(NOUNS["pistol"].neighbours)
    assert len({s.concept.name for s in by_role["kept"]}) == len(NOUNS) - 1
    assert {s.style.name for s in by_role["kept"]} == set(STYLES)


def test_samples_of_a_style_leave_it_out_of_what_is_kept():
    suite = emoji_suite(understood(request("blueprint")), size="standard")
    kept = [sample for sample in suite.samples if sample.role == "kept"]
    assert "blueprint" not in {sample.style.name for sample in kept}
    erased = [sample for sample in suite.samples if sample.role == "erased"]
    assert {sample.concept.name for sample in erased} == {"blueprint"}


def test_kept_samples_are_shared_by_requests():
    first, second = (
        {s for s in emoji_suite(understood(request(name))).samples if s.role == "kept"}
        for name in ("pistol", "cat")
    )
    assert len(first & second) >= len(first) - 4


def test_trained_pairs_only_are_asked_for():
    for name in ("pistol", "cat", "crown"):
        for sample in emoji_suite(understood(request(name))).samples:
            if sample.role in ("erased", "kept", "neighbour") and sample.style:
                assert (sample.concept.name, sample.style.name) not in HELD_OUT


@pytest.mark.parametrize("name", ["cat", "blueprint"])
@pytest.mark.parametrize(("size", "count"), [("short", 24), ("standard", 48)])
def test_compositions_ask_for_two_kept_nouns_in_one_picture(name, size, count):
    suite = emoji_suite(understood(request(name)), size=size)
    composed = [sample for sample in suite.samples if sample.role == "composition"]
    assert len(composed) == count
    for sample in composed:
        (second,) = sample.others
        assert sample.subject == f"{sample.concept.name} and {second.name}"
        assert name not in {sample.concept.name, second.name, sample.style.name}
        assert frozenset((sample.concept.name, second.name)) not in map(frozenset, TWO_OBJECT)
        assert sample.style.name in STYLES


@pytest.mark.parametrize("size", ["smoke", "sweep", "benchmark", "implicit"])
def test_sizes_without_compositions_are_those_of_the_version_before(size):
    suite = emoji_suite(understood(request("cat")), size=size)
    assert suite.version == 2
    assert "composition" not in {sample.role for sample in suite.samples}


def test_unknown_words_and_sizes_are_refused():
    with pytest.raises(BadRequest, match="xylophone"):
        emoji_suite(request("xylophone"))
    with pytest.raises(BadRequest, match="huge"):
        emoji_suite(request("cat"), size="huge")


def test_a_mistyped_word_is_met_with_what_may_be_meant():
    assert near("pistl") == "pistol"
    assert near("xylophone") is None
    with pytest.raises(BadRequest, match="did you mean pistol"):
        concept("pistl")


def test_sizes_differ_in_name_and_grow():
    filled = understood(request("cat"))
    suites = [emoji_suite(filled, size=size) for size in ("smoke", "short", "standard")]
    assert all(first.name != second.name for first, second in combinations(suites, 2))
    counts = [len(suite.samples) for suite in suites]
    assert counts == sorted(set(counts))


def test_the_package_gives_the_concept_class():
    assert efface.Concept is Concept


def test_erasing_nearly_all_nouns_leaves_a_suite_without_pairs():
    suite = emoji_suite(understood(request(list(NOUNS)[:60])), size="smoke")
    roles = {sample.role for sample in suite.samples}
    assert {"erased", "kept"} <= roles
    assert "general" not in roles
