"""The reconstruction of RealEra's closed part: its note's invariants on real toy denoisers."""

import pytest
import torch

from efface.closed_form.text_space import TokenPairs, joined
from efface.concepts import Concept, request
from efface.errors import BadRequest
from efface.hosts.components import KEY_VALUE
from efface.hosts.embedding import Embedder
from efface.methods.realera import Realera
from efface.methods.uce import Uce
from efface.text.mining import Mining
from efface.text.token_rules import erased_pairs
from tests.conftest import host

ERASE = request(Concept(name="pistol", prompts=("a pistol",)), anchor="lamp", keep=["cat", "tree"])
MEANS = {"keep_weight": 0.5, "ridge": 0.2}


@pytest.fixture(scope="module")
def pipe():
    return host("tiny_sd1", dtype=torch.float64)


def matrix(pipe, method, wanted=ERASE, seed=0):
    result = method.erase(pipe, wanted, generator=torch.Generator().manual_seed(seed))
    patch = result.delta.patches[KEY_VALUE]
    return torch.eye(len(patch.left), dtype=patch.left.dtype) + patch.left @ patch.right


@pytest.mark.parametrize("neighbours", ["data", "moments", "sampled"])
def test_without_neighbours_it_is_uce(pipe, neighbours):
    method = Realera(neighbours=neighbours, near_weight=0.0, beyond_weight=0.0, **MEANS)
    plain = Uce(weighting="mean", keep_scale=0.5, ridge=0.2)
    assert torch.allclose(matrix(pipe, method), matrix(pipe, plain), atol=1e-6)


@pytest.mark.thorough
def test_many_draws_come_near_the_moments(pipe):
    settings = {"near_weight": 1.0, "beyond_weight": 2.0, **MEANS}
    limit = matrix(pipe, Realera(neighbours="moments", **settings))

    def apart(count):
        found = matrix(pipe, Realera(neighbours="sampled", count=count, **settings))
        return float((found - limit).norm() / (limit - torch.eye(32).double()).norm())

    few, many = apart(4), apart(1000)
    assert many < 0.1
    assert many < few / 3


def test_a_heavy_weight_beyond_holds_what_is_out_there(pipe):
    embedder = Embedder(pipe)
    rows = erased_pairs(embedder, ERASE.erasures, tokens="legacy", target="anchor").sources
    from efface.closed_form.neighbours import Shell, sampled

    outside = sampled(rows, Shell(0.5, 0.85), 5, torch.Generator().manual_seed(3))
    moved = []
    for weight in (0.1, 10.0, 1000.0):
        found = matrix(pipe, Realera(neighbours="moments", beyond_weight=weight, **MEANS))
        moved.append(float((outside @ found.T - outside).norm() / outside.norm()))
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 0.02


def test_random_neighbours_shrink_what_is_unrelated_and_real_ones_do_not(pipe):
    """The weakness that the note derives: orthogonal directions are scaled toward zero."""
    rows = erased_pairs(Embedder(pipe), ERASE.erasures, tokens="legacy", target="anchor").sources
    unrelated = torch.linalg.svd(rows).Vh[-1]
    assert float((rows @ unrelated).abs().max()) < 1e-9
    settings = {"beyond_weight": 0.0, "keep_weight": 0.0, "ridge": 1e-3}
    lengths = {
        neighbours: float(
            (matrix(pipe, Realera(neighbours=neighbours, **settings)) @ unrelated).norm()
        )
        for neighbours in ("moments", "data")
    }
    assert lengths["moments"] < 0.1
    assert lengths["data"] > 0.9


def test_mined_words_are_erased_along(pipe):
    wanted = request(Concept(name="pistol", prompts=("a pistol",)), anchor="lamp")
    near = Realera(near=(0.2, 1.0), near_distance=2.0, beyond=(0.0, 0.1), count=30, near_weight=5.0)
    plain = Realera(near_weight=0.0, beyond=(0.0, 0.1))
    embedder = Embedder(pipe)
    from efface.text.mining import nearest_words

    word = nearest_words(embedder, "pistol", 1, without=())[0]
    row = embedder.embedded([f"a {word}"])[0][2]
    lamp = embedder.embedded(["a lamp"])[0][2]

    def left(method):
        return float((matrix(pipe, method, wanted) @ row - lamp).norm() / (row - lamp).norm())

    assert left(near) < 0.8 * left(plain)


def test_kept_words_are_not_mined(pipe):
    method = Mining(
        near=(-1.0, 1.0), beyond=(-1.0, -1.0), count=200, tokens="legacy", target="anchor"
    )
    embedder = Embedder(pipe)
    with_kept, beyond = method.around(embedder, ERASE)
    without_keep, _ = method.around(
        embedder, request(Concept(name="pistol", prompts=("a pistol",)), anchor="lamp")
    )
    assert with_kept.weights.sum() < without_keep.weights.sum()
    assert len(beyond) == 0
    assert len(joined([with_kept]).weights) == len(with_kept.weights)


@pytest.mark.parametrize("neighbours", ["data", "sampled"])
def test_the_order_of_neighbours_does_not_matter(pipe, monkeypatch, neighbours):
    method = Realera(
        neighbours=neighbours, near=(0.9, 1.0), near_distance=2.0, beyond=(0.0, 0.9), **MEANS
    )
    plain = matrix(pipe, method)
    owner, name = (Mining, "around") if neighbours == "data" else (Realera, "_drawn")
    found, counts = getattr(owner, name), []

    def turned(*arguments):
        near, beyond = found(*arguments)
        counts.append((len(near.weights), len(beyond)))
        order = torch.randperm(len(near.weights), generator=torch.Generator().manual_seed(1))
        parts = (near.sources, near.targets, near.weights)
        return TokenPairs(*(part[order] for part in parts)), beyond.flip(0)

    monkeypatch.setattr(owner, name, turned)
    assert torch.allclose(matrix(pipe, method), plain, atol=1e-9)
    assert min(counts[0]) > 3


def test_a_name_inside_another_word_is_no_mention(pipe):
    concept = Concept(
        name="lamp", synonyms=("red lamps",), prompts=("a lamp", "a photo of red lamps")
    )
    method = Mining(
        near=(-1.0, 1.0), beyond=(-1.0, -1.0), count=16, tokens="legacy", target="anchor"
    )
    found, _ = method.around(Embedder(pipe), request(concept, anchor="tree"))
    assert len(found.weights) > 0


@pytest.mark.thorough
def test_seeds_matter_only_where_something_is_drawn(pipe):
    drawn = Realera(neighbours="sampled", count=2)
    assert torch.equal(matrix(pipe, drawn, seed=1), matrix(pipe, drawn, seed=1))
    assert not torch.allclose(matrix(pipe, drawn, seed=1), matrix(pipe, drawn, seed=2))
    assert torch.equal(matrix(pipe, Realera(), seed=1), matrix(pipe, Realera(), seed=2))


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(BadRequest, match="must not overlap"):
        Realera(beyond=(0.5, 0.95))
    with pytest.raises(BadRequest, match="distance must be at least"):
        Realera(near=(0.5, 0.6), beyond=(0.1, 0.2), near_distance=0.1)
    with pytest.raises(BadRequest, match="beyond_weight is -1"):
        Realera(beyond_weight=-1)
