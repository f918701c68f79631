"""RealEra's closed part on the toy members of larger families: the literal loop, and its points."""

import pytest
import torch

from efface.concepts import Concept, request
from efface.methods.realera import Realera
from efface.text.branches import text_branches
from efface.text.mining import Mining, nearest_words
from tests.conftest import host
from tests.reference import families as reference

FAMILIES = (
    "sdxl",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd3", "flux")),
    "pixart",
)
CAT = Concept(name="cat", prompts=("a cat",))
ERASE = request(Concept(name="pistol", prompts=("a pistol",)), anchor="lamp", keep=[CAT])


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    """A family and its toy pipeline in float64."""
    return request.param, host(f"tiny_{request.param}", dtype=torch.float64)


def erased(pipe, method, wanted=ERASE, seed=0):
    return method.erase(pipe, wanted, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow  # By default the golden numbers of the cases, from the same loops, show it.
@pytest.mark.parametrize("anchor", ["lamp", None])
def test_every_reader_equals_the_literal_loop_of_moments(case, anchor):
    family, pipe = case
    wanted = request("pistol", anchor=anchor, keep=["cat"])
    expected = reference.realera(pipe, family, wanted, keep=0.5, ridge=0.2)
    method = Realera(neighbours="moments", keep_weight=0.5, ridge=0.2)
    with erased(pipe, method, wanted).delta.apply(pipe):
        found = reference.readers(pipe, family)
        for branch, layers in expected.items():
            for layer, weight in layers.items():
                worst = float((found[branch][layer] - weight).abs().max())
                assert worst < 1e-7, (branch, layer, worst)


def rows_of(pipe, family, text):
    """Lists the branch and the rows that stand for a prompt: its last word's, and pooled ones."""
    for rows, last in reference.token_rows(pipe, family, text):
        yield "tokens", rows[max(last, 0)]
    if family != "pixart":
        yield "pooled", reference.pooled_row(pipe, family, text)[0]


@pytest.mark.parametrize("neighbours", ["data", "moments", "sampled"])
def test_what_the_concept_makes_becomes_what_the_anchor_makes(case, neighbours):
    """To a hundredth of the way; what is kept moves by a hundredth at most."""
    family, pipe = case
    light = {"near_weight": 1e-4, "beyond_weight": 1e-4, "keep_weight": 1e-2, "ridge": 1e-9}
    method = Realera(neighbours=neighbours, tokens="new", count=4, **light)
    before = reference.readers(pipe, family)
    with erased(pipe, method).delta.apply(pipe):
        after = reference.readers(pipe, family)
    both = (rows_of(pipe, family, text) for text in ("a pistol", "a lamp"))
    for (branch, c), (_, t) in zip(*both, strict=True):
        for name, weight in before[branch].items():
            way = (weight @ (t - c)).norm()
            assert way > 1e-3
            assert (after[branch][name] @ c - weight @ t).norm() < 1e-2 * way, (branch, name)
    for branch, r in (each for text in ("", "a cat") for each in rows_of(pipe, family, text)):
        for name, weight in before[branch].items():
            moved = ((after[branch][name] - weight) @ r).norm()
            assert moved < 1e-2 * (weight @ r).norm(), (branch, name)


@pytest.mark.slow
def test_among_the_padding_of_t5_a_word_is_erased_by_the_rule_new_alone():
    """All sides are means: of 510 rows from the concept on one is the word's."""
    pipe = host("tiny_flux", dtype=torch.float64)
    (stream,) = text_branches(pipe)[0].streams
    c, t = (stream.embedded([text])[0, 1] for text in ("a pistol", "a lamp"))

    def left(rule):
        patch = erased(pipe, Realera(tokens=rule)).delta.patches["transformer/text_tokens"]
        return float((c + patch.left @ (patch.right @ c) - t).norm() / (c - t).norm())

    assert left("legacy") > 0.5
    assert left("new") < 0.05


@pytest.mark.thorough
def test_more_draws_come_nearer_to_the_moments(case):
    """Sixteen times as many halve the distance at least, in every branch."""
    _, pipe = case
    settings = {"tokens": "new", "beyond_weight": 2.0, "ridge": 0.2}
    limit = maps(pipe, Realera(neighbours="moments", **settings))
    few, many = (
        maps(pipe, Realera(neighbours="sampled", count=count, **settings)) for count in (250, 4000)
    )
    for key, change in limit.items():
        assert (many[key] - change).norm() < 0.5 * (few[key] - change).norm(), key
        assert (many[key] - change).norm() < 0.6 * change.norm(), key


def maps(pipe, method):
    """Gives each branch's change of rows."""
    patches = erased(pipe, method).delta.patches
    return {key: patch.left @ patch.right for key, patch in patches.items()}


@pytest.mark.thorough
def test_words_near_a_concept_are_found_and_erased_along_in_every_stream(case):
    """Words of T5 begin with a mark and those of CLIP end with one; pooled rows are rows too."""
    _, pipe = case
    for branch in text_branches(pipe):
        for stream in branch.streams:
            words = nearest_words(stream, "pistol", 6, without={"cat"})
            assert len(words) == 6
            assert {"pistol", "cat"}.isdisjoint(words)
            mining = Mining(
                near=(-1.0, 1.0), beyond=(-1.0, -1.0), count=6, tokens="new", target="anchor"
            )
            near, beyond = mining.around(stream, ERASE)
            assert (float(near.weights.sum()), len(beyond)) == (6.0, 0)
            row = stream.embedded([f"a {words[0]}"])[0]
            place = 0 if stream.pooled else stream.tokenised(f"a {words[0]}").last
            assert float((near.sources - row[place]).norm(dim=1).min()) < 1e-9
    word = nearest_words(text_branches(pipe)[0].streams[0], "pistol", 1, without={"cat"})[0]
    wide = {"near": (-1.0, 1.0), "near_distance": 5.0, "beyond": (-1.0, -1.0), "count": 4}

    def left(weight):
        made = erased(pipe, Realera(tokens="new", near_weight=weight, **wide)).delta
        branch = text_branches(pipe)[0]
        stream, patch = branch.streams[0], made.patches[branch.key]
        c, t = (
            stream.embedded([text])[0, stream.tokenised(text).last]
            for text in (f"a {word}", "a lamp")
        )
        return float((c + patch.left @ (patch.right @ c) - t).norm() / (c - t).norm())

    assert left(5.0) < 0.8 * left(0.0)
