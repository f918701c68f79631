"""Folders of strangers: nothing of theirs runs, nothing hangs, and each is refused in one line."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import efface
from efface.deltas.edited_copy import edited_copy
from efface.errors import BadModel, EffaceError
from efface.hosts import libraries
from efface.hosts.survey import survey
from tests.conftest import host

MARK = "import pathlib; pathlib.Path({!r}).write_text('ran')\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "tiny"
    host("tiny_sd1").save_pretrained(place, max_shard_size="40KB")
    return place


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "tiny")


def changed(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


CODE = {
    "another package": {"tokenizer": ["stranger", "CLIPTokenizer"]},
    "a module of a library": {"tokenizer": ["transformers", "os"]},
    "a class of another file": {"unet": ["stranger.code", "UNet2DConditionModel"]},
    "a dotted name": {"text_encoder": ["transformers", "utils.logging"]},
    "a class that chooses": {"tokenizer": ["transformers", "AutoTokenizer"]},
    "a standard module": {"scheduler": ["subprocess", "Popen"]},
    "a pipeline of its own": {"_class_name": ["stranger", "Pipeline"]},
    "an unknown pipeline": {"_class_name": "StrangerPipeline"},
    "no name": {"scheduler": ["diffusers", ""]},
}


@pytest.mark.parametrize("what", CODE)
@pytest.mark.parametrize("read", [efface.load, efface.stream])
def test_code_of_a_folder_does_not_run(copied, what, read, monkeypatch):
    mark = copied / "mark"
    for name in ("stranger.py", "pipeline.py", "unet/stranger.py", "tokenizer/stranger.py"):
        (copied / name).write_text(MARK.format(str(mark)))
    monkeypatch.chdir(copied)
    monkeypatch.syspath_prepend(str(copied))
    changed(copied / "model_index.json", **CODE[what])
    with pytest.raises(BadModel) as caught:
        read(copied)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("read", [efface.load, efface.stream])
def test_a_config_that_asks_for_code_is_refused(copied, read):
    for part in ("text_encoder/config.json", "tokenizer/tokenizer_config.json"):
        before = (copied / part).read_text()
        changed(copied / part, auto_map={"AutoModel": "stranger.Model"})
        with pytest.raises(BadModel, match="asks for code of the model's own"):
            read(copied)
        (copied / part).write_text(before)


def test_the_command_line_runs_no_module_of_the_folder_it_stands_in(copied):
    mark = copied / "mark"
    for name in ("torch", "transformers", "sentencepiece", "tyro", "PIL", "rich"):
        (copied / f"{name}.py").write_text(MARK.format(str(mark)))
    said = subprocess.run(
        [sys.executable, "-m", "efface", "list", "methods"],
        cwd=copied, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert not mark.exists()


DEEP = "[" * 100_000 + "]" * 100_000
CONTENTS = {
    "empty": "",
    "null": "null",
    "a list": "[1, 2]",
    "cut": '{"_class_name": "Auto',
    "deep": '{"a": ' + DEEP + "}",
    "a number": "7",
    "no object": "{}",
}
FILES = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/tokenizer.json",
    "unet/diffusion_pytorch_model.safetensors.index.json",
)


@pytest.mark.thorough
@pytest.mark.parametrize("file", FILES)
def test_configs_that_are_none_are_one_line(copied, file):
    before = (copied / file).read_bytes()
    for content in CONTENTS.values():
        (copied / file).write_text(content)
        for read in (efface.load, efface.stream, survey):
            try:
                read(copied)
            except EffaceError as error:
                assert "\n" not in str(error)
                assert len(str(error)) < 1000
        (copied / file).write_bytes(before)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "part",
    [
        *(pytest.param(part, marks=pytest.mark.slow) for part in ("unet", "scheduler")),
        *("text_encoder", "tokenizer"),
    ],
)
def test_values_of_another_kind_are_one_line(copied, part):
    names = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
    file = copied / part / names.get(part, "config.json")
    content = json.loads(file.read_text())
    for key in content:
        for value in (None, [], "x"):
            file.write_text(json.dumps({**content, key: value}))
            try:
                efface.stream(copied)
            except EffaceError as error:
                assert "\n" not in str(error)
    for key in list(content)[::16]:
        file.write_text(json.dumps({**content, key: [[]]}))
        try:
            efface.load(copied)
        except EffaceError as error:
            assert "\n" not in str(error)


HUGE = {
    "unet/config.json": {"layers_per_block": 10**7, "in_channels": 10**12, "sample_size": 10**8},
    "text_encoder/config.json": {"num_hidden_layers": 10**7, "max_position_embeddings": 10**9},
    "scheduler/scheduler_config.json": {"num_train_timesteps": 10**11, "steps_offset": -(10**9)},
    "vae/config.json": {"block_out_channels": [10**9], "layers_per_block": 1e30},
}


@pytest.mark.parametrize("file", HUGE)
def test_sizes_that_no_model_has_are_refused_at_once(copied, file):
    before = (copied / file).read_text()
    for key, value in HUGE[file].items():
        changed(copied / file, **{key: value})
        with pytest.raises(BadModel, match=f"says that {key} is .*no model has more than"):
            efface.load(copied)
        (copied / file).write_text(before)


@pytest.mark.parametrize(
    "outside", ["../outside.safetensors", "/tmp/outside.safetensors", "..", ""]
)
def test_shards_outside_the_folder_are_refused(copied, outside):
    index = copied / "unet/diffusion_pytorch_model.safetensors.index.json"
    weights = json.loads(index.read_text())["weight_map"]
    changed(index, weight_map={**weights, "conv_in.weight": outside})
    for read in (efface.load, efface.stream, survey):
        with pytest.raises(BadModel, match="which is not a file beside it"):
            read(copied)


def test_a_folder_of_pickles_says_what_it_holds(copied):
    for file in (copied / "unet").glob("*.safetensors*"):
        file.unlink()
    (copied / "unet/diffusion_pytorch_model.bin").write_bytes(b"")
    for read in (efface.load, efface.stream, survey):
        with pytest.raises(BadModel, match=r"it holds .*pytorch_model.bin.*can run code"):
            read(copied)


def piped(copied):
    os.mkfifo(copied / "pipe")


def looped(copied):
    (copied / "circle").symlink_to(copied / "circle")


def around(copied):
    (copied / "unet" / "above").symlink_to(copied, target_is_directory=True)


def leading_out(copied):
    (copied.parent / "secret").write_text("mine")
    (copied / "notes.txt").symlink_to(copied.parent / "secret")


def folder_leading_out(copied):
    (copied.parent / "home").mkdir()
    (copied / "home").symlink_to(copied.parent / "home", target_is_directory=True)


PLACES = {
    "is a pipe": piped,
    "in a circle": looped,
    "link to a folder that holds it": around,
    "notes.txt is a link out of the model's folder": leading_out,
    "home is a link out of the model's folder": folder_leading_out,
}


@pytest.fixture(scope="module")
def delta():
    return efface.erase(host("tiny_sd1"), "pistol", keep=["cat"], method="uce").delta


@pytest.mark.parametrize("message", PLACES)
def test_an_edited_copy_takes_nothing_from_elsewhere(copied, delta, message, tmp_path):
    PLACES[message](copied)
    with pytest.raises(BadModel, match=message):
        edited_copy(copied, delta, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_hubs_own_links_are_followed(folder, delta, tmp_path):
    place = tmp_path / "models--a--b"
    (place / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(folder.rglob("*.*"))):
        link = place / "snapshots" / "abc" / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place / "blobs" / str(number))
        link.symlink_to(place / "blobs" / str(number))
    edited_copy(place / "snapshots" / "abc", delta, tmp_path / "out")
    assert efface.load(tmp_path / "out").unet is not None


def test_a_pipe_in_place_of_a_config_or_of_weights_does_not_hang(copied):
    for name in ("model_index.json", "unet/config.json", "vae/config.json"):
        before = (copied / name).read_bytes()
        (copied / name).unlink()
        os.mkfifo(copied / name)
        with pytest.raises(BadModel, match="is not a regular file"):
            efface.load(copied)
        (copied / name).unlink()
        (copied / name).write_bytes(before)


def test_a_place_that_cannot_be_written_is_named(copied, delta, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EffaceError, match=r"cannot write .*file/out: "):
        edited_copy(copied, delta, tmp_path / "file" / "out")


def test_older_libraries_are_refused(monkeypatch):
    import transformers

    monkeypatch.setattr(transformers, "__version__", "5.5.9")
    libraries.check_libraries.cache_clear()
    with pytest.raises(BadModel, match=r"transformers 5.5.9 is installed and efface needs 5.6"):
        efface.load("emoji")
    with pytest.raises(BadModel, match=r"transformers 5.5.9"):
        efface.stream("anywhere")
    libraries.check_libraries.cache_clear()


@pytest.mark.thorough
def test_a_pointer_in_place_of_weights_says_how_to_fetch_them(tmp_path):
    host("tiny_sd1").save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(BadModel, match="git lfs pull"):
        efface.load(str(tmp_path))
