"""Where an erased concept went: counts of what a judge sees first, before and after."""

from types import SimpleNamespace

import pytest
import torch

from efface.bundled.judge import EmojiJudge
from efface.concepts import Concept
from efface.contracts import Sample
from efface.evaluation.scoring import Scorer
from efface.evaluation.sightings import sightings
from tests.evaluation.conftest import CAT, PISTOL, card

SAMPLES = (
    *(Sample("a pistol", seed, "erased", PISTOL) for seed in range(3)),
    Sample("a revolver", 0, "synonym", PISTOL),
    Sample("a cat", 0, "kept", CAT),
)
PICTURES = {
    "before": [(0.9, 0.2), (0.8, 0.7), (0.9, 0.1), (0.6, 0.95)],
    "after": [(0.1, 0.2), (0.3, 0.8), (0.2, 0.9), (0.1, 0.1)],
}
"""Probabilities of a pistol and of an axe in each picture of the concept's prompts."""


class Seeing:
    """A judge of pictures that hold their own answers."""

    card = card(threshold=0.5)

    def names(self, images, like):
        assert like == PISTOL
        return {"pistol": images[:, 0, 0, 0], "axe": images[:, 1, 0, 0]}


def scorer(pictures=PICTURES):
    class Store:
        def batches(self, source, samples):
            assert all(sample.concept == PISTOL for sample in samples)
            rows = torch.tensor(pictures[source])
            yield samples, torch.cat([rows, rows[:, :1]], dim=1)[:, :, None, None]

    return Scorer(Store(), SimpleNamespace(scores={}))


def test_every_picture_counts_once_by_what_is_likeliest_in_it():
    """Before: pistol, pistol, pistol, axe. After: nothing, axe, axe, nothing."""
    found = sightings(Seeing(), scorer(), SAMPLES, ("before", "after"))
    rows = [(one.concept, one.name, one.before, one.after, one.count) for one in found]
    assert rows == [
        ("pistol", "axe", 1, 2, 4),
        ("pistol", "", 0, 2, 4),
        ("pistol", "pistol", 3, 0, 4),
    ]


def test_judges_that_cannot_name_and_unedited_models_have_none():
    assert sightings(SimpleNamespace(), scorer(), SAMPLES, ("before", "after")) == ()
    assert sightings(Seeing(), scorer(), SAMPLES, ("before",)) == ()


def test_a_value_that_is_not_finite_makes_the_evaluation_fail():
    broken = PICTURES | {"after": [(float("nan"), 0.1)] * 4}
    kept = scorer(broken)
    assert sightings(Seeing(), kept, SAMPLES, ("before", "after")) == ()
    assert "not finite when asked for names" in kept.failures[0]


@pytest.mark.parametrize(
    ("name", "kind", "count"), [("pistol", "object", 64), ("neon", "style", 8)]
)
def test_the_bundled_judge_names_things_of_the_concepts_kind(name, kind, count):
    judge, picture = EmojiJudge(), torch.full((2, 3, 64, 64), 0.5)
    concept = Concept(name=name, kind=kind)
    named = judge.names(picture, concept)
    assert len(named) == count
    assert torch.equal(named[name], judge.presence(picture, concept))
