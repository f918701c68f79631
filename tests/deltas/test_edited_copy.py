"""Edited copies of model folders: equal to the applied delta, whole or absent, nothing unedited."""

import json
import shutil
import tracemalloc

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import efface
from efface.deltas.copy_plan import RECORD
from efface.deltas.delta import Delta
from efface.deltas.edited_copy import edited_copy
from efface.deltas.patches import DensePatch
from efface.errors import BadDelta, BadModel, BadRequest, ModelCollapsed
from efface.hosts.loading import load
from efface.hosts.shards import data_start
from tests.conftest import host

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, dtype in DTYPES.items():
        place = tmp_path_factory.mktemp(name) / "model"
        host("tiny_sd1", dtype=dtype).save_pretrained(place, max_shard_size="40KB")
        made[name] = place
    return made


@pytest.fixture(scope="module")
def delta(folders):
    return efface.erase(load(folders["float32"]), "pistol", method="uce").delta


@pytest.fixture
def folder(folders, tmp_path):
    return shutil.copytree(folders["float16"], tmp_path / "base")


@pytest.mark.thorough
@pytest.mark.parametrize("name", DTYPES)
def test_a_copy_loads_in_diffusers_with_the_weights_of_the_applied_delta(
    folders, delta, tmp_path, name
):
    from diffusers import StableDiffusionPipeline

    made = edited_copy(folders[name], delta, tmp_path / "out")
    base = load(folders[name], dtype=DTYPES[name])
    found = StableDiffusionPipeline.from_pretrained(
        tmp_path / "out", torch_dtype=DTYPES[name], local_files_only=True
    )
    changed = 0
    with delta.apply(base):
        for one, other in ((base.unet, found.unet), (base.text_encoder, found.text_encoder)):
            for (path, expected), value in zip(
                one.named_parameters(), other.parameters(), strict=True
            ):
                assert torch.equal(value, expected), path
    for value, before in zip(found.unet.parameters(), base.unet.parameters(), strict=True):
        changed += not torch.equal(value, before)
    assert changed == made.tensors == len(delta.provenance.base_sketch)


def test_everything_but_the_edited_bytes_is_the_same(folders, delta, tmp_path):
    base, out = folders["float16"], tmp_path / "out"
    made = edited_copy(base, delta, out)
    names = {str(file.relative_to(base)) for file in base.rglob("*") if file.is_file()}
    assert {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()} == (
        names | {RECORD}
    )
    assert made.bytes == sum((base / name).stat().st_size for name in names)
    different = {name for name in names if (base / name).read_bytes() != (out / name).read_bytes()}
    assert different
    for name in different:
        old, new = (base / name).read_bytes(), (out / name).read_bytes()
        assert old[: data_start(base / name)] == new[: data_start(base / name)]
        with safe_open(out / name, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
        before, after = load_file(base / name), load_file(out / name)
        for tensor in before:
            edited = tensor.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
            assert torch.equal(before[tensor], after[tensor]) != edited, tensor
    assert all((out / name).stat().st_ino != (base / name).stat().st_ino for name in names)


@pytest.mark.thorough
def test_scale_moves_along_the_line_and_zero_is_the_base(folders, delta, tmp_path):
    base = load(folders["float32"])
    edited_copy(folders["float32"], delta, tmp_path / "half", scale=0.5)
    with delta.apply(base, scale=0.5):
        found = load(tmp_path / "half")
        for one, other in zip(base.unet.parameters(), found.unet.parameters(), strict=True):
            assert torch.equal(one, other)
    edited_copy(folders["float32"], delta, tmp_path / "none", scale=0.0)
    for one, other in zip(
        base.unet.parameters(), load(tmp_path / "none").unet.parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_no_weights_of_the_unedited_network_come_along(folder, delta, tmp_path):
    unet = folder / "unet"
    whole = {}
    for file in unet.glob("*.safetensors"):
        whole |= load_file(file)
    save_file(whole, unet / "diffusion_pytorch_model.same.safetensors")
    moved = {name: tensor + 0.1 * tensor.abs().mean() for name, tensor in whole.items()}
    save_file(moved, unet / "diffusion_pytorch_model.non_ema.safetensors")
    (unet / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "all-in-one.safetensors").write_bytes(b"checkpoint")
    (folder / "README.md").write_text("a card")
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"another part")
    (folder / ".git").mkdir()
    (folder / ".git" / "object").write_bytes(b"history")
    made = edited_copy(folder, delta, tmp_path / "out")
    assert made.left_out == (
        "all-in-one.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    )
    out = tmp_path / "out"
    assert not any((out / name).exists() for name in made.left_out)
    assert not (out / ".git").exists()
    assert (out / "README.md").read_text() == "a card"
    assert (out / "vae" / "diffusion_pytorch_model.bin").exists()
    variant = load_file(out / "unet" / "diffusion_pytorch_model.same.safetensors")
    loaded = load(out, dtype=torch.float16).unet
    for name, weight in loaded.named_parameters():
        assert torch.equal(variant[name], weight)
    assert made.tensors == 2 * len(delta.provenance.base_sketch)


@pytest.mark.thorough
def test_the_record_says_what_was_merged_and_edits_add_up(folders, delta, tmp_path):
    first = edited_copy(folders["float32"], delta, tmp_path / "first").folder
    merged = json.loads((first / RECORD).read_text())["merged"]
    assert [one["delta"] for one in merged] == [delta.id]
    assert merged[0]["provenance"]["method"] == "uce"
    with pytest.raises(BadDelta, match=f"delta {delta.id} is merged into .* already"):
        edited_copy(first, delta, tmp_path / "again")
    base = load(folders["float32"])
    with delta.apply(base):
        later = efface.erase(base, "cat", method="uce").delta
    with pytest.raises(BadDelta, match=f"was made on top of {delta.id}"):
        edited_copy(folders["float32"], later, tmp_path / "orphan")
    second = edited_copy(first, later, tmp_path / "second").folder
    merged = json.loads((second / RECORD).read_text())["merged"]
    assert [one["delta"] for one in merged] == [delta.id, later.id]
    assert not any((tmp_path / name).exists() for name in ("again", "orphan"))


def test_a_damaged_record(folder, delta, tmp_path):
    (folder / RECORD).write_text('{"merged": [1]}')
    with pytest.raises(BadModel, match="does not list what is merged"):
        edited_copy(folder, delta, tmp_path / "out")


def test_another_base_is_refused_before_any_work(delta, tmp_path):
    host("tiny_sd1", seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(BadDelta, match=r"differs from it by .*give the base it was made for"):
        edited_copy(tmp_path / "other", delta, tmp_path / "out")
    host("tiny_sd1").vae.save_pretrained(tmp_path / "folder" / "vae")
    (tmp_path / "folder" / "model_index.json").write_text("{}")
    with pytest.raises(BadDelta, match="has no part 'unet'"):
        edited_copy(tmp_path / "folder", delta, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "other"]


def test_places_that_are_taken(folder, delta, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("mine")
    with pytest.raises(BadRequest, match="taken exists already"):
        edited_copy(folder, delta, tmp_path / "taken")
    with pytest.raises(BadRequest, match="lies inside the model"):
        edited_copy(folder, delta, folder / "edited")
    (tmp_path / "empty").mkdir()
    assert edited_copy(folder, delta, tmp_path / "empty").tensors > 0


def test_a_disk_that_is_too_small_is_told_first(folder, delta, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(BadRequest, match=r"the copy needs [\d.]+ MB and .* has 0.0 MB free"):
        edited_copy(folder, delta, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_copy_that_stops_leaves_nothing_and_a_killed_one_is_cleared(
    folder, delta, tmp_path, stop
):
    def stopping(step, total, figures):
        if step == 2:
            raise stop

    (tmp_path / ".out.partial" / "unet").mkdir(parents=True)
    with pytest.raises(stop):
        edited_copy(folder, delta, tmp_path / "out", monitor=stopping)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
    assert edited_copy(folder, delta, tmp_path / "out").tensors > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


def test_a_value_that_does_not_fit_the_files_dtype(folder, delta, tmp_path):
    key = "unet/" + next(iter(delta.provenance.base_sketch)).partition("/")[2]
    shape = load(folder).unet.get_parameter(key.partition("/")[2]).shape
    huge = Delta(patches={key: DensePatch(torch.full(shape, 1e6))}, provenance=delta.provenance)
    with pytest.raises(ModelCollapsed, match=r"do not fit torch.float16"):
        edited_copy(folder, huge, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_memory_is_far_below_the_size_of_a_file(folder, delta, tmp_path):
    big = folder / "vae" / "notes.bin"
    big.write_bytes(bytes(64 << 20))
    tracemalloc.start()
    edited_copy(folder, delta, tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20
