"""Files, solves and ledgers that are wrong in ways a user meets: one line, exit code 2."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.test_bad_input import refused
from tests.cli.test_faults import files_of_at_most


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
