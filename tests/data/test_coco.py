"""COCO's JSON: boxes and classes by hand, lazy reading, identity, and what is refused."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from efface.data.coco import coco
from efface.data.scene_places import open_scenes
from efface.data.scenes import (
    ScenePictures,
    require_things,
    scenes_numbered_as,
    scenes_with,
    scenes_without,
    shared_scenes,
    some_scenes,
)
from efface.errors import BadRequest, MissingInput

WIDE, HIGH = 40, 20


def picture(folder, name, seed, size=(WIDE, HIGH)):
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(folder / name)
    return levels


def entry(number, name):
    return {"id": number, "file_name": name, "width": WIDE, "height": HIGH}


def thing(image, category, box, **more):
    return {"id": 7, "image_id": image, "category_id": category, "bbox": box, **more}


def content():
    """Three pictures: a cup and a cat, a cat and a crowd of cats, and nothing."""
    return {
        "images": [entry(11, "one.png"), entry(5, "two.png"), entry(6, "three.png")],
        "categories": [{"id": 90, "name": "cup"}, {"id": 3, "name": "cat"}],
        "annotations": [
            thing(11, 90, [0, 0, 10, 10]),
            thing(11, 3, [20, 5, 20, 10]),
            thing(5, 3, [4, 2, 8, 4]),
            thing(5, 3, [0, 0, 40, 20], iscrowd=1),
        ],
    }


def written(folder, told=None, **parts):
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(("one.png", "two.png", "three.png")):
        picture(folder, name, seed)
    (folder / "things.json").write_text(json.dumps(told or content() | parts))
    return folder


@pytest.fixture
def scenes(tmp_path):
    return coco(written(tmp_path / "set"))


def test_boxes_are_shares_of_centre_and_size_and_classes_go_by_category_id(scenes):
    """The cup: left top quarter by half; the cat's centre is (30, 10) of (40, 20)."""
    assert scenes.names == ("cat", "cup")
    assert [each.classes.tolist() for each in scenes.things] == [[1, 0], [0], []]
    expected = torch.tensor([[0.125, 0.25, 0.25, 0.5], [0.75, 0.5, 0.5, 0.5]])
    torch.testing.assert_close(scenes.things[0].boxes, expected)
    assert scenes.things[2].boxes.shape == (0, 4)
    assert scenes.crowds == 1


def test_scenes_are_read_as_the_files_have_them(scenes, tmp_path):
    second, first = scenes.scenes([1, 0])
    levels = np.asarray(Image.open(tmp_path / "set" / "two.png"))
    assert torch.equal((second.pixels * 255).round(), torch.tensor(levels).permute(2, 0, 1).float())
    assert torch.equal(first.boxes, scenes.things[0].boxes)
    assert isinstance(scenes, ScenePictures)
    assert isinstance(some_scenes(scenes, [0]), ScenePictures)
    assert len(scenes) == 3


def test_identity_is_of_content_and_not_of_places_ids_or_order(tmp_path):
    first = coco(written(tmp_path / "a"))
    told = content()
    told["images"].reverse()
    told["annotations"].reverse()
    told["categories"] = [{"id": 2, "name": "cup"}, {"id": 1, "name": "cat"}]
    for one in told["annotations"]:
        one["category_id"] = {90: 2, 3: 1}[one["category_id"]]
    assert coco(written(tmp_path / "b", told)).identity == first.identity
    moved = content()
    moved["annotations"][0]["bbox"][0] = 1
    assert coco(written(tmp_path / "c", moved)).identity != first.identity
    picture(tmp_path / "a", "one.png", 99)
    assert coco(tmp_path / "a").identity != first.identity


def test_parts_keep_all_things_of_their_pictures(scenes):
    cups, others = scenes_with(scenes, [1]), scenes_without(scenes, [1])
    assert (cups.which, others.which) == ((0,), (1, 2))
    assert cups.things[0].classes.tolist() == [1, 0]
    assert shared_scenes(cups, others) == 0
    assert shared_scenes(cups, scenes) == 1
    assert torch.equal(others.scenes([0])[0].pixels, scenes.scenes([1])[0].pixels)


def test_scenes_are_numbered_as_the_head_is(scenes):
    head = ("Tea-Pot", "CUP", "sofa", "cat")
    numbered = scenes_numbered_as(scenes, head)
    assert [each.classes.tolist() for each in numbered.things] == [[1, 3], [3], []]
    assert numbered.scenes([0])[0].classes.tolist() == [1, 3]
    assert numbered.names == head
    with pytest.raises(BadRequest, match="the scenes show cat, which the detector's head of 1 cla"):
        scenes_numbered_as(scenes, ["cup"])
    only_cups = scenes_numbered_as(some_scenes(scenes, [2]), ["sofa"])
    assert len(only_cups) == 1


def test_a_class_that_no_scene_shows_is_refused(scenes):
    require_things(scenes, [0, 1])
    with pytest.raises(MissingInput, match="no scene shows cup; the scenes show cat; give scenes"):
        require_things(scenes_without(scenes, [1]), [0, 1])


def test_a_long_set_is_opened_without_reading_its_pictures(tmp_path):
    """Forty pictures, read one by one, take no more memory than three of them as float32."""
    size = (400, 250)
    picture(tmp_path, "one.png", 0, size)
    one = entry(0, "one.png") | {"width": size[0], "height": size[1]}
    images = [one | {"id": number} for number in range(200)]
    (tmp_path / "all.json").write_text(
        json.dumps({"images": images, "categories": [], "annotations": []})
    )
    tracemalloc.start()
    opened = coco(tmp_path)
    for place in range(40):
        opened.scenes([place])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 4 * 3 * size[0] * size[1]


def test_places(tmp_path):
    folder = written(tmp_path / "set")
    same = coco(folder).identity
    apart = tmp_path / "apart.json"
    apart.write_bytes((folder / "things.json").read_bytes())
    assert open_scenes(folder).identity == same
    assert open_scenes(f"{folder}/things.json").identity == same
    assert open_scenes(f"{folder}:{apart}").identity == same
    opened = coco(folder)
    assert open_scenes(opened) is opened
    (folder / "more.json").write_text("{}")
    with pytest.raises(MissingInput, match=r"holds more\.json, things\.json; name the file"):
        open_scenes(folder)
    with pytest.raises(MissingInput, match="there is no folder of pictures at"):
        open_scenes(tmp_path / "nowhere")
    with pytest.raises(MissingInput, match="there is no JSON file at"):
        open_scenes(folder / "nothing.json")
    with pytest.raises(MissingInput, match="by their content alone"):
        open_scenes("sha256:0123456789abcdef")


def test_pictures_of_one_thing_each_are_no_scenes():
    with pytest.raises(BadRequest, match="the pictures of icons-vit show one thing each"):
        open_scenes("icons-vit:test")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"annotations": None}, "has no list of annotations"),
        ({"images": [entry(1, "one.png")] * 2}, "lists 2 images and only 1 of them differ"),
        ({"categories": [{"id": 1, "name": "a"}] * 2}, "lists 2 categories and only 1 of them"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 3, "name": "A"}]}, "2 category names and"),
        ({"annotations": [thing(12, 3, [0, 0, 1, 1])]}, "annotates image 12, which it does not"),
        ({"annotations": [thing(11, 4, [0, 0, 1, 1])]}, "annotates category 4, which it does not"),
        ({"annotations": [thing(11, 3, [0, 0, 0, 1])]}, "annotation 7 has the box"),
        ({"annotations": [thing(11, 3, [30, 0, 20, 1])]}, "in a picture of 40 x 20 pixels; boxes"),
        ({"annotations": [thing(11, 3, [0, 0, float("nan"), 1])]}, "annotation 7 has the box"),
        ({"annotations": [thing(11, 3, [0, 0, 1])]}, "is not in COCO's layout"),
        ({"annotations": [{"image_id": 11}]}, "an entry lacks 'category_id'"),
        ({"images": [{"id": "x"}]}, "is not in COCO's layout"),
        ({"images": [entry(11, "../one.png")], "annotations": []}, "lies outside of"),
    ],
)
def test_a_broken_json_is_refused_in_one_line(tmp_path, parts, message):
    folder = written(tmp_path / "set", **parts)
    with pytest.raises(BadRequest, match=message) as failure:
        coco(folder)
    assert "\n" not in str(failure.value)


def test_missing_and_exchanged_pictures_are_refused(tmp_path):
    folder = written(tmp_path / "set", images=[], annotations=[])
    with pytest.raises(MissingInput, match="lists no picture"):
        coco(folder)
    folder = written(tmp_path / "set")
    picture(folder, "one.png", 0, (HIGH, WIDE))
    with pytest.raises(BadRequest, match="has 20 x 40 pixels and the JSON says 40 x 20"):
        coco(folder).scenes([0])
    (folder / "one.png").write_bytes(b"no picture")
    with pytest.raises(BadRequest, match=r"one\.png"):
        coco(folder).scenes([0])
    (folder / "one.png").unlink()
    with pytest.raises(MissingInput, match=r"names the picture one\.png, and"):
        coco(folder)


def test_a_box_over_the_edge_by_rounding_is_cut_at_it(tmp_path):
    folder = written(tmp_path / "set", annotations=[thing(11, 3, [-0.5, 0, 41, 20])])
    assert coco(folder).things[0].boxes.tolist() == [[0.5, 0.5, 1.0, 1.0]]
