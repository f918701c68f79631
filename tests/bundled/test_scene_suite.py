"""The suite of scenes: the emoji suite, and kept things composed in pictures."""

import pytest

from efface import registry
from efface.bundled import understood
from efface.bundled.scene_suite import scene_suite
from efface.bundled.scene_wordings import read
from efface.bundled.suites import emoji_suite
from efface.bundled.vocabulary import NOUNS, concept
from efface.concepts import Erasure, ErasureRequest, request
from efface.evaluation.samples import ROLES, STAYING, in_role
from efface.evaluation.suites import suite_for


@pytest.fixture(scope="module")
def asked():
    return understood(request("cat"))


def test_it_is_the_emoji_suite_with_compositions_of_its_own(asked):
    suite, base = scene_suite(asked, size="short"), emoji_suite(asked, size="short")
    composed = in_role(suite.samples, "composition")
    assert suite.samples == (*in_role(base.samples, *set(ROLES) - {"composition"}), *composed)
    assert not set(composed) & set(base.samples)
    assert len(composed) == len(set(composed)) == 36
    assert suite.judge == "emoji-scenes"
    assert "composition" in STAYING
    assert suite_for("scenes", asked, size="short") == suite


def test_two_things_counts_and_places_come_in_turn_and_nothing_erased_among_them(asked):
    composed = in_role(scene_suite(asked).samples, "composition")
    shown = [read(sample.concept.name) for sample in composed]
    assert all(sample.prompt == sample.concept.name for sample in composed)
    assert not [each for each in shown if "cat" in each.nouns]
    kinds = ["places" if s.place else "pairs" if len(set(s.nouns)) > 1 else "counts" for s in shown]
    assert kinds[:6] == ["pairs", "counts", "places"] * 2
    assert [kinds.count(kind) for kind in ("pairs", "counts", "places")] == [24, 24, 24]


def test_nothing_is_composed_where_everything_is_erased():
    every = tuple(Erasure(concept=concept(noun)) for noun in NOUNS)
    everything = ErasureRequest(erasures=every)
    assert not in_role(scene_suite(everything, size="smoke").samples, "composition")


def test_the_model_of_scenes_is_measured_by_it():
    assert registry.bundled("emoji-scenes").SUITE == "scenes"
    assert registry.bundled("emoji-scenes").JUDGE == "emoji-scenes"
    assert "emoji-scenes" in registry.BUNDLED_JUDGES
