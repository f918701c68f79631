"""Folders of pictures by class: what is no set of pictures is refused by what to do."""

import pytest
from PIL import Image

from efface.data.folders import image_folder
from efface.errors import BadRequest


def drawn(place, level):
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (level, 0, 0)).save(place)


def test_one_picture_in_two_classes_is_refused_and_twice_in_one_is_not(tmp_path):
    for name, level in (("cat/a.png", 1), ("cat/again.png", 1), ("dog/b.png", 2)):
        drawn(tmp_path / name, level)
    assert image_folder(tmp_path).numbers == (0, 0, 1)
    drawn(tmp_path / "dog/c.png", 1)
    with pytest.raises(BadRequest, match=r"a\.png and .*c\.png are the same picture in two"):
        image_folder(tmp_path)
