"""The closed form of debiasing: targets, no-op, and the update of the weights."""

import pytest
import torch

from efface.concepts import Concept, wordings
from efface.errors import BadRequest
from efface.text.balancing import Balance, distance, next_weights
from efface.text.branches import text_branches
from tests.conftest import host
from tests.reference import closed_form as reference

PISTOL = Concept(name="pistol")
LOOSE = {"keep_scale": 0.0, "ridge": 1e-9, "weighting": "sum"}


@pytest.fixture(scope="module")
def branch(tiny_double):
    return text_branches(tiny_double)[0]


def balance(branch, attributes=("cat", "tree"), tokens="legacy", concept=PISTOL):
    return Balance.of(branch, concept, attributes, [Concept(name="lamp")], tokens=tokens)


def weights(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("tokens", ["legacy", "new"])
def test_sources_act_like_themselves_plus_the_weighted_attributes(branch, tokens):
    one = balance(branch, tokens=tokens, concept=Concept(name="pistol", prompts=("pistol",)))
    edit = one.edit(weights(0.3, -0.1), **LOOSE).map
    wanted = one.sources + 0.3 * one.attributes[0] - 0.1 * one.attributes[1]
    moved = (edit.of(one.sources) - wanted).norm() / (wanted - one.sources).norm()
    assert moved < 1e-4


def test_the_edit_equals_the_loop_over_layers(tiny_double, branch):
    """The reference sums ``W c + sum_a s_a W attribute_a`` per layer, from prompts of its own."""
    texts, strengths = wordings(PISTOL), (0.4, -0.2)
    layers = reference.key_value_layers(tiny_double.unet)
    pairs = []
    for text in texts:
        each = [reference.legacy_rows(tiny_double, text, name) for name in ("cat", "tree")]
        length = min(len(source) for source, _ in each)
        source = each[0][0][:length]
        added = sum(s * rows[:length] for s, (_, rows) in zip(strengths, each, strict=True))
        pairs.append((source, source + added))
    kept_texts = ["", *wordings(Concept(name="lamp"))]
    kept = [reference.states(tiny_double, text)[0] for text in kept_texts]
    expected = reference.uce(layers, pairs, kept, keep=0.7, ridge=0.5)
    edit = balance(branch).edit(weights(*strengths), keep_scale=0.7, ridge=0.5, weighting="sum")
    change = edit.map.matrix()
    for name, weight in layers.items():
        assert float((weight @ change - expected[name]).abs().max()) < 1e-9


def test_zero_weights_change_nothing_at_all(branch):
    edit = balance(branch).edit(weights(0, 0), keep_scale=1.0, ridge=0.5, weighting="sum").map
    assert torch.equal(edit.of(balance(branch).sources), balance(branch).sources)


def test_an_attribute_twice_as_heavy_equals_two_alike(branch):
    one = balance(branch, ("cat", "tree")).edit(weights(0.4, 0.1), **LOOSE).map.matrix()
    two = balance(branch, ("cat", "cat", "tree")).edit(weights(0.1, 0.3, 0.1), **LOOSE).map.matrix()
    assert torch.allclose(one, two, atol=1e-8)


def test_tails_are_cut_to_the_longest_name_among_the_attributes(branch):
    """16 rows, of which ``a photo of a pistol`` starts at 5 and ``black and white`` at 3."""
    long = Concept(name="pistol", prompts=("a photo of a pistol",))
    length = len(branch.streams[0].embedded(["pistol"])[0])
    short = Concept(name="pistol", prompts=("pistol",))
    assert balance(branch, concept=long).attributes.shape[:2] == (2, length - 5)
    names = ("cat", "black and white")
    rows = balance(branch, names, concept=short).attributes.shape[1]
    last = branch.streams[0].tokenised("black and white").last
    assert rows == length - last


def test_an_attribute_without_tokens_is_refused(branch):
    with pytest.raises(BadRequest, match="' ' has no tokens"):
        balance(branch, ("cat", " "))


def test_weights_move_by_the_share_that_is_missing():
    now = next_weights(
        weights(0.1, 0.0), wanted=weights(0.5, 0.5), found=weights(0.8, 0.1), step=0.5
    )
    assert torch.allclose(now, weights(0.1 - 0.15, 0.2))


def test_the_distance_counts_pictures_of_no_attribute():
    assert distance(weights(0.5, 0.5), weights(0.5, 0.5)) == 0
    assert distance(weights(0.5, 0.5), weights(0.75, 0.25)) == pytest.approx(0.25)
    assert distance(weights(0.5, 0.5), weights(0.5, 0.2)) == pytest.approx(0.3)


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "pixart"])
def test_every_branch_of_every_family_is_moved(family):
    for branch in text_branches(host(f"tiny_{family}", dtype=torch.float64)):
        one = balance(branch)
        edit = one.edit(weights(0.3, -0.1), keep_scale=0.0, ridge=1e-3, weighting="mean").map
        wanted = one.sources + 0.3 * one.attributes[0] - 0.1 * one.attributes[1]
        left = (edit.of(one.sources) - wanted).norm() / (wanted - one.sources).norm()
        assert left < 0.5
