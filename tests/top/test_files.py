"""Files survive kills and full disks; damaged, altered and newer deltas are refused by name."""

import json
import signal
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface import files
from efface.deltas.delta import Delta
from efface.deltas.results import ErasureResult
from efface.errors import BadDelta, BadRequest
from tests.deltas import toys

KILLED = """
import os, pathlib, signal, sys
from efface import files
if sys.argv[2] == "flush":
    os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
else:
    pathlib.Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(pathlib.Path(sys.argv[1]), b"new" * 100_000)
"""

FULL = """
import pathlib, resource, signal, sys
from efface import files
from efface.errors import BadRequest
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    files.write_atomically(pathlib.Path(sys.argv[1]), b"new" * 100_000)
except BadRequest as error:
    sys.exit(str(error))
"""


@pytest.fixture
def saved(tmp_path):
    """A delta with every kind of patch, saved."""
    model = toys.toy()
    patches = toys.dense(1) | toys.low_rank(2, toys.PLAIN, 3, 8) | toys.rows(3) | toys.text_map(4)
    made = toys.delta(model, patches, note="ü")
    made.save(tmp_path / "delta.safetensors")
    return made


@pytest.mark.parametrize("moment", ["flush", "rename"])
def test_a_kill_while_saving_leaves_the_old_file(tmp_path, moment):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    files.write_atomically(path, b"after")
    assert path.read_bytes() == b"after"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "what was there is untouched" in done.stderr
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, b"new")
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_place_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BadRequest, match="cannot write"):
        files.write_atomically(tmp_path / "taken" / "file", b"new")


def test_every_kind_of_patch_survives_its_file(saved, tmp_path):
    back = Delta.load(tmp_path)
    assert back.id == saved.id
    assert back.kinds() == saved.kinds()
    assert back.provenance.settings == {"note": "ü"}
    for name, tensor in saved.tensors().items():
        assert torch.equal(back.tensors()[name], tensor)
    model = toys.toy()
    with back.apply(model):
        one = toys.weights(model)
    with saved.apply(model):
        assert toys.same(one, toys.weights(model))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_short_is_refused(saved, tmp_path, share):
    path = tmp_path / "delta.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BadDelta, match="damaged or cut short"):
        Delta.load(path)


def test_a_changed_value_is_noticed(saved, tmp_path):
    path = tmp_path / "delta.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BadDelta, match="was altered"):
        Delta.load(path)


def rewritten(path, **changes):
    """Saves the same tensors under a changed header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))["__metadata__"]
    save_file(load_file(path), path, metadata=header | changes)


def test_a_newer_format_is_refused(saved, tmp_path):
    rewritten(tmp_path / "delta.safetensors", format_version="7")
    with pytest.raises(BadDelta, match=r"format version 7 .* update efface"):
        Delta.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not a delta written by efface"),
        ({"format_version": "one"}, "header .* is damaged"),
        ({"provenance": "{"}, "header .* is damaged"),
        ({"kinds": '{"unet/x": "dense"}'}, "header .* is damaged"),
        ({"kinds": '{"unet/x": "unheard"}'}, "header .* is damaged"),
    ],
)
def test_a_strange_header_is_refused(saved, tmp_path, changes, message):
    rewritten(tmp_path / "delta.safetensors", **changes)
    with pytest.raises(BadDelta, match=message):
        Delta.load(tmp_path)


def test_a_missing_delta_is_refused(tmp_path):
    with pytest.raises(BadDelta, match="there is no delta at"):
        Delta.load(tmp_path / "nowhere")


def test_a_run_without_its_record_or_with_anothers_is_refused(saved, tmp_path):
    result = ErasureResult(delta=saved, curves={"loss": (1.0, 0.5)}, seconds=1.0, peak_bytes=5)
    result.save(tmp_path)
    assert ErasureResult.load(tmp_path).curves == {"loss": (1.0, 0.5)}
    record = tmp_path / "run.json"
    text = record.read_text()
    record.write_text(text.replace(saved.id, "0" * 16))
    with pytest.raises(BadDelta, match="of another delta"):
        ErasureResult.load(tmp_path)
    record.unlink()
    with pytest.raises(BadDelta, match="not complete"):
        ErasureResult.load(tmp_path)
