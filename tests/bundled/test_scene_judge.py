"""The judge of scenes: what it makes of its maps, and that its files are what it says."""

import pytest
import torch

from efface.bundled.scene_judge import (
    CELLS,
    SceneNet,
    Seen,
    _agrees,
    _peaks,
    load_scene_net,
    relation,
    save_scene_net,
)
from efface.bundled.scene_wordings import read
from efface.bundled.vocabulary import NOUNS
from efface.errors import BadModel


def maps(*things):
    """Maps that are 0 but where a thing is: noun, down, across, probability."""
    scores = torch.zeros(len(NOUNS), CELLS, CELLS)
    for noun, down, across, probability in things:
        scores[list(NOUNS).index(noun), down, across] = probability
    return scores


def test_things_apart_are_counted_and_one_seen_twice_is_not():
    seen = _peaks(maps(("cat", 2, 2, 0.9), ("cat", 3, 4, 0.8), ("cat", 2, 9, 0.7)), 0.5)
    assert [(each.noun, round(each.probability, 2)) for each in seen] == [
        ("cat", 0.9),
        ("cat", 0.7),
    ]
    assert (seen[0].across, seen[0].down) == (2.5 / 12, 2.5 / 12)
    assert seen[1].across == 9.5 / 12


def test_of_two_nouns_in_one_place_the_more_probable_is_there():
    seen = _peaks(maps(("cat", 5, 5, 0.8), ("dog", 5, 6, 0.9), ("moon", 0, 0, 0.4)), 0.5)
    assert [each.noun for each in seen] == ["dog"]


def test_maps_that_are_no_numbers_show_nothing():
    assert _peaks(torch.full((len(NOUNS), CELLS, CELLS), torch.nan), 0.5) == ()


@pytest.mark.parametrize(
    ("across", "down", "place"),
    [
        (-0.5, 0.1, "left of"),
        (0.4, -0.2, "right of"),
        (0.1, -0.5, "above"),
        (0.2, 0.5, "below"),
        (0.4, 0.4, None),
        (0.2, 0.0, None),
    ],
)
def test_a_relation_is_told_where_it_is_plain(across, down, place):
    second = Seen("moon", 0.5, 0.5, 1.0)
    first = Seen("cat", 0.5 + across, 0.5 + down, 1.0)
    assert relation(first, second) == place


def test_a_network_is_read_as_it_was_written(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SceneNet((8, 8, 16)).half().float().eval()
    save_scene_net(network, tmp_path / "net.safetensors")
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    again = load_scene_net(tmp_path / "net.safetensors")
    for one, other in zip(network(images), again(images), strict=True):
        assert torch.equal(one, other)
    assert network(images)[0].shape == (2, len(NOUNS), CELLS, CELLS)
    with pytest.raises(BadModel, match=r"none\.safetensors is missing"):
        load_scene_net(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("phrase", "things", "probability"),
    [
        ("a cat and a moon", [("cat", 2, 2, 0.9), ("moon", 9, 9, 0.7)], 0.7),
        ("a cat and a moon", [("cat", 2, 2, 0.9)], 0.0),
        ("a cat and a moon", [("cat", 2, 2, 0.9), ("moon", 2, 3, 0.7)], 0.0),
        ("two cats", [("cat", 2, 2, 0.9), ("cat", 9, 9, 0.6)], 0.6),
        ("two cats", [("cat", 2, 2, 0.9), ("cat", 9, 9, 0.6), ("cat", 2, 9, 0.55)], 0.0),
        ("two cats", [("cat", 2, 2, 0.9), ("cat", 9, 9, 0.6), ("cat", 2, 9, 0.3)], 0.6),
        ("a cat left of a moon", [("cat", 5, 2, 0.9), ("moon", 5, 9, 0.7)], 0.7),
        ("a cat right of a moon", [("cat", 5, 2, 0.9), ("moon", 5, 9, 0.7)], 0.0),
    ],
)
def test_a_phrase_is_as_probable_as_its_least_thing(phrase, things, probability):
    seen = _peaks(maps(*things), 0.01)
    assert _agrees(seen, read(phrase), 0.5) == pytest.approx(probability)
