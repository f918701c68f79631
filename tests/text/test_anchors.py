"""Anchors found among what is kept."""

import pytest

from efface.concepts import Concept, request
from efface.errors import BadRequest
from efface.text.anchors import toward_nearest
from efface.text.branches import text_branches


@pytest.fixture
def branch(tiny_sd1):
    return text_branches(tiny_sd1)[0]


def anchors(wanted):
    return [erasure.anchor and erasure.anchor.name for erasure in wanted.erasures]


def test_the_nearest_kept_concept_becomes_the_anchor(branch):
    """Nearest by the values that all layers make of both names, written out layer by layer."""
    kept = ["cat", "lamp", "tree"]
    wanted = toward_nearest(request(["pistol", "church"], keep=kept), branch)
    (stream,) = branch.streams
    layers = [weight.double() for path, weight in branch.weights.items() if "to_v" in path]
    assert 0 < len(layers) < len(branch.weights)

    def distance(erased, name):
        rows = stream.embedded([erased])[0] - stream.embedded([name])[0]
        return sum(float((rows @ layer.T).square().sum()) for layer in layers)

    assert anchors(wanted) == [
        min(kept, key=lambda name: distance(erased, name)) for erased in ("pistol", "church")
    ]


def test_an_anchor_that_is_named_stays(branch):
    wanted = request("pistol", anchor="house", keep=["cat", "lamp"])
    assert toward_nearest(wanted, branch) == wanted


def test_an_anchor_has_no_prompts_of_its_own(branch):
    kept = Concept(name="cat", prompts=("a cat, blueprint style",))
    (erasure,) = toward_nearest(request("pistol", keep=[kept]), branch).erasures
    assert erasure.anchor == Concept(name="cat")


def test_without_kept_concepts_there_is_no_nearest_one(branch):
    with pytest.raises(BadRequest, match="nearest kept concept, and none is kept"):
        toward_nearest(request("pistol"), branch)
