"""Anchors found among what is kept."""

import pytest

from efface.concepts import Concept, request
from efface.core.anchors import toward_nearest
from efface.core.text import Embedder
from efface.errors import BadRequest


@pytest.fixture
def stream(tiny_sd1):
    return Embedder(tiny_sd1)


def anchors(wanted):
    return [erasure.anchor and erasure.anchor.name for erasure in wanted.erasures]


def test_the_nearest_kept_concept_becomes_the_anchor(stream):
    kept = ["cat", "lamp", "tree"]
    wanted = toward_nearest(request(["pistol", "church"], keep=kept), stream)
    distances = {
        (erased, name): float((stream.embedded([erased]) - stream.embedded([name])).norm())
        for erased in ("pistol", "church")
        for name in kept
    }
    assert anchors(wanted) == [
        min(kept, key=lambda name: distances[erased, name]) for erased in ("pistol", "church")
    ]


def test_an_anchor_that_is_named_stays(stream):
    wanted = request("pistol", anchor="house", keep=["cat", "lamp"])
    assert toward_nearest(wanted, stream) == wanted


def test_an_anchor_has_no_prompts_of_its_own(stream):
    kept = Concept(name="cat", prompts=("a cat, blueprint style",))
    (erasure,) = toward_nearest(request("pistol", keep=[kept]), stream).erasures
    assert erasure.anchor == Concept(name="cat")


def test_without_kept_concepts_there_is_no_nearest_one(stream):
    with pytest.raises(BadRequest, match="nearest kept concept, and none is kept"):
        toward_nearest(request("pistol"), stream)
