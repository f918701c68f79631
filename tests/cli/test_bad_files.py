"""Files, solves and ledgers that are wrong in ways a user meets: one line, exit code 2."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.test_bad_input import refused
from tests.cli.test_faults import files_of_at_most


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["uce", "rece"])
def test_a_solve_without_a_solution_says_which_ridge_would_do(efface, model, tmp_path, method):
    erase = ("erase", method, "--model", model, "--concept", "cat", "--out", tmp_path / "run")
    flag = "--ridge" if method == "uce" else "--first-ridge"
    outcome = efface(*erase, flag, "1e-30")
    refused(outcome, "raise the ridge to")
    assert re.search(r"pivot \d+ of 32 fails|ill conditioned", outcome.err)
    assert not (tmp_path / "run").exists()
    advised = re.search(r"raise the ridge to (\S+) or more", outcome.err)[1]
    assert efface(*erase, flag, advised).code == 0


@pytest.mark.parametrize("layout", ["lora", "weights"])
def test_an_import_whose_keys_match_nothing(efface, model, tmp_path, layout):
    down, up = torch.ones(2, 4), torch.ones(4, 2)
    held = {
        "lora": {
            "lora_unet_nowhere.lora_down.weight": down,
            "lora_unet_nowhere.lora_up.weight": up,
        },
        "weights": {"nowhere.weight": down},
    }
    file = tmp_path / "theirs.safetensors"
    save_file(held[layout], file)
    out = tmp_path / "run"
    outcome = efface("import", file, "--concept", "cat", "--model", model, "--out", out)
    refused(outcome, "nowhere", "the file is for another kind of model")
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x10" + bytes(7) + b"{" * 16])
@pytest.mark.parametrize("name", ["theirs.safetensors", "theirs.pt"])
def test_an_import_that_is_no_such_file(efface, model, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "run"
    outcome = efface("import", tmp_path / name, "--concept", "cat", "--model", model, "--out", out)
    refused(outcome, name)
    assert not out.exists()


@pytest.mark.parametrize(
    "form", ["diffusers", "component", "diffusers-lora", "peft", "kohya", "spm", "adapter"]
)
def test_a_disk_that_fills_up_in_mid_export(efface, a_run, model, tmp_path, form):
    out = tmp_path / "deep" / "out"
    export = ("export", a_run, "--as", form, "--model", model, "--out", out)
    with files_of_at_most(500):
        outcome = efface(*export)
    refused(outcome, "space")
    assert not [each for each in (tmp_path / "deep").rglob("*") if each.is_file()]
    assert efface(*export, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda held: held["entries"][0].update(date="2020-01-01"), "'r1' of the ledger was ch"),
        (lambda held: held["entries"][0].pop("request"), "'r1' of the ledger was ch"),
        (lambda held: held.pop("entries"), "ledger.json is damaged"),
        (lambda held: held.update(entries="none"), "ledger.json is damaged"),
        (lambda held: held.update(base_model="other"), "ledger.json was changed by hand"),
    ],
)
def test_a_ledger_edited_by_hand(efface, model, tmp_path, spoil, said):
    book = tmp_path / "book"
    add = ("ledger", "add", book, "--model", model, "--concept", "pistol", "--id", "r1")
    assert efface(*add).code == 0
    file = book / "ledger.json"
    held = json.loads(file.read_text())
    spoil(held)
    file.write_text(json.dumps(held))
    for verb in (("list", book), ("erase", book, "--model", model, "--out", tmp_path / "run")):
        refused(efface("ledger", *verb), said)
    assert not (tmp_path / "run").exists()


ODD = {
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "bytes": b"\xff\xfe\x00",
    "an object": b"{}",
    "wrong values": b'{"recipe": [], "sha256": [], "shots": 1, "sampling": null, "delta": {}}',
    "no picture": b'{"shots": [], "sampling": {"steps": 10, "guidance": 7.5}}',
    "huge": b'{"shots": [{"prompt": "a", "seed": %s}], "sampling": {"steps": 1, "guidance": 1}}'
    % (b"9" * 40),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
@pytest.mark.parametrize("name", ["run.json", "smoke/smoke.json", "delta.safetensors"])
def test_any_damage_to_a_file_of_a_run_is_one_line(efface, a_run, model, tmp_path, name, content):
    (a_run / name).write_bytes(content)
    export = ("export", a_run, "--model", model, "--as", "peft", "--out", tmp_path / "lora")
    verb = {"run.json": ("rerun", a_run), "delta.safetensors": export}.get(name, ("verify", a_run))
    refused(efface(*verb), "")


@pytest.mark.parametrize("name", ["run.json", "delta.safetensors", "smoke/smoke.json"])
def test_a_pipe_in_a_run_is_refused_and_not_waited_for(efface, a_run, model, name):
    (a_run / name).unlink()
    os.mkfifo(a_run / name)
    outcome = efface("verify", a_run)
    if name == "smoke/smoke.json":
        assert "no pictures were kept" in outcome.out
    else:
        refused(outcome, str(a_run))


def test_pipes_and_loops_in_a_model_are_not_copied(efface, a_run, broken_model, tmp_path):
    copy = ("apply", a_run, "--model", broken_model, "--in-place-copy", tmp_path / "copy")
    (broken_model / "unet" / "back").symlink_to(broken_model)
    refused(efface(*copy), "is a link to a folder that holds it")
    (broken_model / "unet" / "back").unlink()
    os.mkfifo(broken_model / "pipe")
    refused(efface(*copy), "is a pipe, a socket or a device")
    (broken_model / "pipe").unlink()
    (broken_model / "nowhere").symlink_to(tmp_path / "none")
    refused(efface(*copy), "is a link that leads nowhere")
    assert not (tmp_path / "copy").exists()


def test_pipes_in_place_of_files_that_are_read(efface, a_run, model, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    erase = ("erase", "uce", "--model", model, "--concept", "cat", "--out", tmp_path / "out")
    refused(efface(*erase, "--settings", tmp_path / "pipe"), "is not a regular file")
    read = ("import", tmp_path / "pipe", "--model", model, "--concept", "cat")
    refused(efface(*read, "--out", tmp_path / "out"), "pipe")
    assert not (tmp_path / "out").exists()


def test_a_run_replaces_nothing_of_a_model_or_the_root(efface, model, tmp_path):
    erase = ("erase", "uce", "--model", model, "--concept", "cat", "--out")
    refused(efface(*erase, model / "unet"), "lies inside the model")
    refused(efface(*erase, "/"), "holds all files there are")
    refused(efface(*erase, ""), "--out is empty")
    refused(efface(*erase, tmp_path / "run", "--seed", "9" * 30), "at most 63 bits")
    assert not list(tmp_path.iterdir())
