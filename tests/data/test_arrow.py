"""Folders of the datasets library; most need it, and are skipped without."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from efface.data.arrow import arrow_folder
from efface.data.places import open_pictures
from efface.errors import BadRequest, MissingInput

INSTALLED = importlib.util.find_spec("datasets") is not None
needed = pytest.mark.skipif(not INSTALLED, reason="needs the datasets library")
NAMES = ["cat", "cup"]


def pictures(count=3):
    drawn = np.random.default_rng(0).integers(0, 256, (count, 6, 4, 3), np.uint8)
    return [Image.fromarray(one) for one in drawn]


def table(labels=(1, 0, 1), shown=None, **more):
    import datasets

    columns = {"image": shown or pictures(), "label": list(labels), "note": ["a", "b", "c"]} | more
    kinds = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=NAMES),
        "note": datasets.Value("string"),
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def test_without_the_library_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(MissingInput, match="datasets library; install it: pip install datasets"):
        open_pictures(tmp_path)


@pytest.mark.thorough
@needed
def test_rows_are_read_as_they_were_saved(tmp_path):
    table().save_to_disk(tmp_path / "set")
    opened = open_pictures(tmp_path / "set")
    assert opened.names == tuple(NAMES)
    assert opened.labels.tolist() == [1, 0, 1]
    last, first = opened.read([2, 0])
    for shown, place in ((last, 2), (first, 0)):
        levels = torch.tensor(np.asarray(pictures()[place])).permute(2, 0, 1)
        assert torch.equal((shown * 255).round().byte(), levels)
    assert len(set(opened.keys)) == len(opened) == 3


@needed
def test_splits_and_identity(tmp_path):
    import datasets

    both = datasets.DatasetDict({"train": table(), "test": table().select([2, 0, 1])})
    both.save_to_disk(tmp_path / "both")
    train, test = (open_pictures(f"{tmp_path}/both:{split}") for split in ("train", "test"))
    assert test.labels.tolist() == [1, 1, 0]
    assert train.identity == test.identity
    table((0, 0, 1)).save_to_disk(tmp_path / "other")
    assert arrow_folder(tmp_path / "other").identity != train.identity
    with pytest.raises(MissingInput, match="has no split open; it has train, test"):
        arrow_folder(tmp_path / "both", "open")


@needed
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path):
    table().remove_columns(["label"]).save_to_disk(tmp_path / "bare")
    with pytest.raises(BadRequest, match=r"of which 0 hold classes \(ClassLabel\) and one should"):
        arrow_folder(tmp_path / "bare")
    table((1, -1, 0)).save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(BadRequest, match=r"row 1 of .* has no class in column label; leave such"):
        arrow_folder(tmp_path / "unlabelled")
    table((1, None, 0)).save_to_disk(tmp_path / "null")
    with pytest.raises(BadRequest, match=r"row 1 of .* has no class in column label"):
        arrow_folder(tmp_path / "null")
    table().select([]).save_to_disk(tmp_path / "empty")
    with pytest.raises(MissingInput, match="holds no picture"):
        arrow_folder(tmp_path / "empty")
    table(shown=[*pictures(2), None]).save_to_disk(tmp_path / "hole")
    with pytest.raises(BadRequest, match="the picture in row 2 of column image cannot be read"):
        arrow_folder(tmp_path / "hole").read([2])
    (tmp_path / "bare" / "state.json").write_text("{")
    with pytest.raises(BadRequest, match="is not what save_to_disk wrote") as failure:
        arrow_folder(tmp_path / "bare")
    assert "\n" not in str(failure.value)
