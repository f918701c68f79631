"""Scenes of icons: made from numbers, with boxes where the icons are."""

import pytest
import torch

from efface.bundled.icon_scenes import SIDE, scenes
from efface.bundled.icons import pictures
from efface.data.places import open_pictures
from efface.data.scenes import ScenePictures
from efface.errors import BadRequest
from efface.hosts.boxes import as_corners

COUNT = 12


def test_a_scene_is_the_same_each_time_and_whichever_are_drawn_with_it():
    made = scenes("train", count=COUNT)
    again = type(made)(made.sheet, made.names, "train", COUNT)
    first, second = made.scenes([3, 7]), again.scenes([7])
    assert torch.equal(first[1].pixels, second[0].pixels)
    assert isinstance(made, ScenePictures)
    assert again.identity == made.identity


def test_things_are_told_as_they_are_drawn():
    made = scenes("test", count=COUNT)
    for told, drawn in zip(made.things, made.scenes(range(COUNT)), strict=True):
        assert torch.equal(told.boxes, drawn.boxes)
        assert torch.equal(told.classes, drawn.classes)
        assert 1 <= len(told.classes) <= 5
        corners = as_corners(told.boxes)
        assert float(corners.min()) >= 0
        assert float(corners.max()) <= 1


def test_boxes_hold_what_differs_from_the_ground(monkeypatch):
    """The same scenes without their icons differ inside of the boxes alone, and up to each edge."""
    made = scenes("train", count=COUNT)
    drawn = made.scenes(range(COUNT))
    monkeypatch.setattr(type(made), "_layout", lambda self, number: [])
    monkeypatch.setattr(type(made), "_annotated", lambda self, layout: made.things[0])
    empty = made.scenes(range(COUNT))
    for scene, ground in zip(drawn, empty, strict=True):
        differs = (scene.pixels - ground.pixels).abs().amax(0) > 0.2
        inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        for left, top, right, bottom in (as_corners(scene.boxes) * SIDE).tolist():
            rows = slice(max(0, round(top) - 1), round(bottom) + 1)
            columns = slice(max(0, round(left) - 1), round(right) + 1)
            inside[rows, columns] = True
            assert float(differs[rows, columns].float().mean()) > 0.1
        assert not bool((differs & ~inside).any())


def test_training_and_held_out_scenes_share_nothing():
    first, second = scenes("train", count=COUNT), scenes("test", count=COUNT)
    assert not set(first.keys) & set(second.keys)
    assert first.identity != second.identity


def test_what_is_no_set_of_scenes_is_refused():
    with pytest.raises(BadRequest, match="'valid' is not a part of the bundled pictures"):
        scenes("valid")
    with pytest.raises(BadRequest, match="0 scenes are none; give 1 or more"):
        scenes("test", count=0)
    with pytest.raises(BadRequest, match="2 views of a scene were asked for"):
        pictures("icons-detector", "test", views=2)


@pytest.mark.thorough
def test_scenes_have_no_place_where_a_picture_has_one_label():
    with pytest.raises(BadRequest, match="the pictures of icons-detector are scenes"):
        open_pictures("icons-detector:test")
