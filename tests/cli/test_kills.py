"""A kill at any file operation leaves the old or the new, and the same command then succeeds."""

import hashlib
import json
import os
import shutil
import sys

import pytest
from safetensors.torch import load_file

from efface.cli.main import main

pytestmark = pytest.mark.slow

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.chmod", "os.truncate")
EXCHANGE = "ctypes.dlsym"
KILLED = 99
MOST = 400


def at_operation(number, arguments, place):
    """Runs a command in a fork that dies just before its n-th change of a file below ``place``.

    Gives the exit code, which is `KILLED` unless the command had fewer operations.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = [number]

    def count(event, given):
        writes = event == "open" and (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        named = event == EXCHANGE or any(str(place) in str(each) for each in given[:2])
        if (writes or event in CHANGES or event == EXCHANGE) and named:
            left[0] -= 1
            if left[0] == 0:
                os._exit(KILLED)

    sys.addaudithook(count)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        code = main(arguments)
    except BaseException:
        code = 98
    os._exit(code)


def content(path):
    """What counts in a file: no times, and tensors in whatever order a header lists them."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        whole = b"".join(key.encode() + tensors[key].numpy().tobytes() for key in sorted(tensors))
        return hashlib.sha256(whole).hexdigest()
    if path.name in ("run.json", "ledger.json"):
        told = json.loads(path.read_text())
        return [told.get("delta"), [each["id"] for each in told.get("entries", ())]]
    return "" if path.name == "efface.json" else path.read_bytes()


def state(out):
    """All that a reader sees at a place.

    Hidden files are none of it, nor are rows that no ledger names: they are written before it.
    """
    if not out.exists():
        return None
    book = out / "ledger.json"
    entries = json.loads(book.read_text())["entries"] if book.exists() else ()
    named = {each["id"] for each in entries}
    files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
    seen = {
        path.relative_to(out).as_posix(): content(path)
        for path in files
        if not any(part.startswith(".") for part in path.relative_to(out).parts)
        and not (path.parent == out / "rows" and path.stem not in named)
    }
    return seen or None


def commands(model, run, place):
    """Command and place of every scenario; those with --overwrite find an older result there."""
    erase = ("erase", "uce", "--model", model, "--no-evaluate", "--smoke")
    export = ("export", run, "--model", model, "--as")
    return {
        "erase": (*erase, "--concept", "cat", "--out", place / "made"),
        "erase over": (*erase, "--concept", "cat", "--overwrite", "--out", place / "made"),
        "rerun over": ("rerun", run, "--overwrite", "--out", place / "made"),
        "ledger add": (
            "ledger",
            "add",
            place / "made",
            "--model",
            model,
            "--concept",
            "cat",
            "--id",
            "r1",
            "--keep",
            "dog",
        ),
        "ledger replay": (
            "ledger",
            "replay",
            run.parent / "book",
            "--model",
            model,
            "--out",
            place / "made",
        ),
        "peft": (*export, "peft", "--out", place / "made"),
        "peft over": (*export, "peft", "--overwrite", "--out", place / "made"),
        "kohya over": (*export, "kohya", "--overwrite", "--out", place / "made.safetensors"),
        "diffusers over": (*export, "diffusers", "--overwrite", "--out", place / "made"),
        "copy over": (
            "apply",
            run,
            "--model",
            model,
            "--overwrite",
            "--in-place-copy",
            place / "made",
        ),
    }


OLDER = {
    "erase over": lambda each: [*each[:6], "--concept", "dog", "--out", each[-1]],
    "rerun over": lambda each: ["transfer", each[1], "--model", "MODEL", "--out", each[-1]],
    "kohya over": lambda each: [*each, "--scale", "0.5"],
    "peft over": lambda each: [*each, "--scale", "0.5"],
    "diffusers over": lambda each: [*each, "--scale", "0.5"],
    "copy over": lambda each: [*each[:-2], "--scale", "0.5", *each[-2:]],
}


@pytest.mark.parametrize(
    "name",
    [
        "erase",
        "erase over",
        "rerun over",
        "ledger add",
        "ledger replay",
        "peft",
        "peft over",
        "kohya over",
        "diffusers over",
        "copy over",
    ],
)
def test_a_kill_leaves_old_or_new(made_run, model, tmp_path, name):
    place = tmp_path / "work"
    place.mkdir()
    run = shutil.copytree(made_run, tmp_path / "run")
    if name == "ledger replay":
        add = ("ledger", "add", tmp_path / "book", "--model", model, "--concept", "cat")
        assert main([*map(str, add)]) == 0
    command = [str(word) for word in commands(model, run, place)[name]]
    if name in OLDER:
        older = [str(model) if word == "MODEL" else word for word in OLDER[name](command)]
        assert main(older) == 0
    if name == "rerun over":  # an older run that differs
        (place / "made" / "report.html").write_text("older")
    out = place / ("made.safetensors" if name == "kohya over" else "made")
    start = shutil.copytree(place, tmp_path / "start")
    old = state(out)
    assert main(command) == 0
    new, listing = state(out), names(place)
    assert new != old
    for number in range(1, MOST):
        shutil.rmtree(place)
        shutil.copytree(start, place)
        code = at_operation(number, command, place)
        found = state(out)
        assert found in (old, new), f"{name}, operation {number}: neither old nor new"
        if code != KILLED:
            assert code == 0
            return
        again = main(command)
        if again and found == new and "--overwrite" not in command:
            continue  # it was done: told so
        assert again == 0, f"{name}, operation {number}: cannot be repeated"
        assert state(out) == new, f"{name}, operation {number}"
        assert names(place) == listing, f"{name}, operation {number}: litter"
    raise AssertionError(f"{name} has more than {MOST} operations")


def names(place):
    return {path.relative_to(place).as_posix() for path in place.rglob("*")}
