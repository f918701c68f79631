"""IDX files: packed or not, mapped from disk, known by content, and what is refused."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
import torch

from efface.data.idx import idx_files
from efface.data.places import open_pictures
from efface.errors import BadRequest, MissingInput

LABELS = (3, 0, 1, 3)
IMAGES, NUMBERS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def levels(count=4, side=5):
    return np.random.default_rng(0).integers(0, 256, (count, side, side), np.uint8)


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def written(folder, *, packed=False, pictures=None, labels=LABELS):
    folder.mkdir(exist_ok=True)
    shown = levels() if pictures is None else pictures
    for name, array in ((IMAGES, shown), (NUMBERS, np.array(labels, np.uint8))):
        content = idx(array)
        place = folder / (f"{name}.gz" if packed else name)
        place.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_pictures_are_the_files_bytes_in_three_channels(tmp_path, packed):
    opened = idx_files(written(tmp_path / "set", packed=packed))
    assert opened.labels.tolist() == list(LABELS)
    assert opened.names == ("0", "1", "2", "3")
    last, first = opened.read([3, 0])
    assert last.shape == (3, 5, 5)
    for shown, place in ((last, 3), (first, 0)):
        grey = torch.from_numpy(levels()[place].astype(np.float32)) / 255
        assert all(torch.equal(channel, grey) for channel in shown)


def test_packed_or_not_it_is_the_same_set_wherever_it_lies(tmp_path):
    one, two = written(tmp_path / "fashion"), written(tmp_path / "other", packed=True)
    assert idx_files(one).identity == idx_files(two).identity == open_pictures(one).identity
    assert open_pictures(f"{two}:train").keys == idx_files(one).keys
    other = written(tmp_path / "third", labels=(3, 0, 1, 2))
    assert idx_files(other).identity != idx_files(one).identity


@pytest.mark.parametrize("packed", [False, True])
def test_pictures_stay_on_disk(tmp_path, packed):
    """Of 4,000,000 bytes of pictures fewer than a tenth are held, opening and reading included."""
    many = np.zeros((1000, 63, 63), np.uint8)
    folder = written(tmp_path / "set", packed=packed, pictures=many, labels=[0] * 1000)
    tracemalloc.start()
    opened = idx_files(folder)
    opened.read([0, 500, 999])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(opened.levels, np.memmap)
    assert peak < many.nbytes / 10


def test_names_beside_the_files_name_the_classes(tmp_path):
    folder = written(tmp_path / "set")
    (folder / "names.txt").write_text("cup\ncat\n\nsofa\nboat\n")
    assert idx_files(folder).names == ("cup", "cat", "sofa", "boat")
    (folder / "names.txt").write_text("cup\ncat\nsofa\n")
    with pytest.raises(BadRequest, match="has 3 different names in 3 lines, and the labels go up"):
        idx_files(folder)
    (folder / "names.txt").write_text("cup\ncat\ncup\nboat\n")
    with pytest.raises(BadRequest, match="has 3 different names in 4 lines"):
        idx_files(folder)


def test_what_is_no_idx_file_is_refused(tmp_path):
    with pytest.raises(MissingInput, match=f"has no {IMAGES}, nor {IMAGES}.gz"):
        idx_files(tmp_path)
    folder = written(tmp_path / "set", labels=(1, 2))
    with pytest.raises(BadRequest, match="has 4 pictures and 2 labels"):
        idx_files(folder)
    (folder / IMAGES).write_bytes(idx(levels())[:-1])
    with pytest.raises(BadRequest, match="holds 99 bytes after its header, which says 100; it is"):
        idx_files(folder)
    (folder / IMAGES).write_bytes(b"\0\0\x0d\3" + bytes(12))
    with pytest.raises(BadRequest, match="is not an IDX file of bytes with 3 dimensions"):
        idx_files(folder)
    (folder / IMAGES).write_bytes(b"\0\0")
    with pytest.raises(BadRequest, match="is not an IDX file"):
        idx_files(folder)
    (folder / IMAGES).write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3))
    with pytest.raises(BadRequest, match="holds 0 bytes after its header, which says 79228162458"):
        idx_files(folder)
    written(folder, pictures=levels(0), labels=())
    with pytest.raises(MissingInput, match="holds no picture"):
        idx_files(folder)


def test_broken_packed_files_are_refused(tmp_path):
    folder = written(tmp_path / "set", packed=True)
    file = folder / f"{IMAGES}.gz"
    content = file.read_bytes()
    for broken in (content[:-12], b"no gzip", content[:20] + b"\xff" * 20 + content[40:]):
        file.write_bytes(broken)
        with pytest.raises(BadRequest, match="cannot be unpacked .* fetch it again") as failure:  # noqa: RUF043
            idx_files(folder)
        assert "\n" not in str(failure.value)
