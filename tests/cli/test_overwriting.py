"""--overwrite replaces what efface wrote, after the new is whole, and nothing else."""

import shutil
from pathlib import Path

import pytest

from efface.deltas.delta import Delta

FORMATS = ("diffusers", "component", "diffusers-lora", "peft", "kohya", "spm", "adapter")
ONE_FILE = ("kohya", "spm", "adapter")


def tree(folder):
    """Every file below a folder with its content."""
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def refused(outcome, *parts):
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
    for part in parts:
        assert part in outcome.err


@pytest.fixture
def export(efface, a_run, model):
    """Exports the run to a place, replacing what is there."""

    def run(name, out, *more, source=a_run, base=model):
        command = ("export", source, "--as", name, "--out", out, "--model", base, "--overwrite")
        return efface(*command, *more)

    return run


@pytest.mark.parametrize("name", FORMATS)
def test_an_older_export_is_replaced_and_nothing_is_left_behind(export, tmp_path, name):
    out = tmp_path / "made" / ("edit.safetensors" if name in ONE_FILE else "edit")
    assert export(name, out).code == 0
    first = tree(out.parent)
    assert export(name, out, "--scale", "0.5").code == 0
    assert tree(out.parent).keys() == first.keys()
    assert tree(out.parent) != first


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("place", ["base", "run", "mine", "file", "link", "inside"])
def test_an_export_replaces_nothing_of_anybody_else(
    export, a_run, broken_model, tmp_path, monkeypatch, name, place
):
    mine = tmp_path / "mine"
    (mine / "deep").mkdir(parents=True)
    (mine / "deep" / "work.txt").write_text("years of work")
    (mine / "file.safetensors").write_text("mine")
    (tmp_path / "link").symlink_to(mine)
    places = {
        "base": broken_model,
        "run": a_run,
        "mine": mine,
        "file": mine / "file.safetensors",
        "link": tmp_path / "link",
        "inside": broken_model / "unet" / "new",
    }
    before = tree(tmp_path)
    monkeypatch.chdir(mine / "deep")
    refused(export(name, places[place], base=broken_model))
    refused(export(name, ".", base=broken_model), "is no name of a new file")
    refused(export(name, a_run / "delta.safetensors", base=broken_model))
    assert tree(tmp_path) == before
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["diffusers", "peft"])
@pytest.mark.parametrize("change", ["added", "changed", "link", "record"])
def test_an_export_to_which_somebody_added_is_kept(export, tmp_path, name, change):
    out = tmp_path / "edit"
    assert export(name, out).code == 0
    if change == "added":
        (out / "notes.txt").write_text("mine")
    elif change == "changed":
        file = next(path for path in out.rglob("*.json") if path.name != "efface.json")
        file.write_text(file.read_text() + "\n")
    elif change == "link":
        (out / "more").symlink_to(tmp_path)
    else:
        (out / "efface.json").write_text("{}")
    before = tree(out)
    refused(export(name, out, "--scale", "0.5"), "choose another name, or remove it yourself")
    assert tree(out) == before


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--scale", "nan"), "the scale is nan"),
        (("--scale", "inf"), "scale is inf"),
        (("--rank", "0"), "the rank is 0"),
        (("--rank", "-1"), "the rank is -1"),
    ],
)
def test_a_refused_export_keeps_the_older_one(export, tmp_path, name, flags, said):
    out = tmp_path / "edit"
    out.write_text("old")
    refused(export(name, out, *flags), said)
    assert out.read_text() == "old"


def test_a_failing_export_keeps_the_older_one(export, a_run, tmp_path):
    out = tmp_path / "edit"
    assert export("peft", out).code == 0
    before = tree(tmp_path / "edit")
    refused(export("peft", out, base=tmp_path / "nowhere"), "nowhere")
    assert tree(tmp_path / "edit") == before
    assert {path.name for path in tmp_path.iterdir()} == {"edit", "run"}


def test_a_card_beside_a_file_replaces_no_card_of_others(export, a_run, tmp_path):
    (a_run / "card.md").write_text("---\ntags:\n- concept-erasure\n---\n")
    out = tmp_path / "made" / "edit.safetensors"
    assert export("kohya", out).code == 0
    (out.parent / "edit.card.md").write_text("my own card")
    refused(export("kohya", out), "edit.card.md is there already")
    (out.parent / "edit.card.md").write_text("---\ntags:\n- concept-erasure\n- older\n---\n")
    assert export("kohya", out).code == 0
    assert (out.parent / "edit.card.md").read_text() == (a_run / "card.md").read_text()


def test_an_edited_copy_is_replaced_by_a_whole_one(efface, a_run, model, tmp_path):
    out = tmp_path / "made" / "copy"
    copy = ("apply", a_run, "--model", model, "--in-place-copy", out)
    assert efface(*copy).code == 0
    first = tree(out)
    refused(efface(*copy, "--scale", "0.5"), "exists already")
    assert tree(out) == first
    assert efface(*copy, "--scale", "0.5", "--overwrite").code == 0
    assert tree(out).keys() == first.keys()
    assert tree(out) != first
    assert [path.name for path in out.parent.iterdir()] == ["copy"]
    (out / "mine.txt").write_text("mine")
    refused(efface(*copy, "--overwrite"), "'mine.txt', which efface did not write")
    refused(efface(*copy[:-1], model, "--overwrite"), "lies inside the model")
    refused(efface(*copy[:-1], a_run, "--overwrite"), "has no efface.json")
    assert Delta.load(a_run)


def writers(a_run, model, tmp_path):
    """Commands of every verb that writes a run, without --out."""
    base = ("--model", model)
    lora = tmp_path / "lora.safetensors"
    return {
        "erase": ("erase", "uce", "--concept", "cat", "--no-evaluate", *base),
        "import": ("import", lora, "--concept", "cat", *base),
        "transfer": ("transfer", a_run, *base),
        "rerun": ("rerun", a_run, *base),
        "ledger": ("ledger", "erase", tmp_path / "book", *base),
    }


@pytest.fixture
def write(efface, a_run, model, tmp_path):
    """Runs a verb that writes a run, with what it reads made first."""
    lora, book = tmp_path / "lora.safetensors", tmp_path / "book"
    export = ("export", a_run, "--as", "kohya", "--out", lora, "--model", model)
    assert efface(*export).code == 0
    assert efface("ledger", "add", book, "--model", model, "--concept", "cat").code == 0

    def run(verb, out, *more):
        return efface(*writers(a_run, model, tmp_path)[verb], "--out", out, *more)

    return run


@pytest.mark.thorough
@pytest.mark.parametrize(
    "verb",
    [
        "erase",
        "import",
        *(pytest.param(verb, marks=pytest.mark.slow) for verb in ("transfer", "rerun", "ledger")),
    ],
)
def test_a_new_run_takes_nothing_over_from_the_older_one(write, a_run, model, tmp_path, verb):
    old = shutil.copytree(a_run, tmp_path / "old")
    (old / "report.html").write_text("of the older run")
    (old / "card.md").write_text("of the older run")
    (old / "notes").mkdir()
    (old / "notes" / "mine.txt").write_text("mine")
    before = tree(old)
    refused(write(verb, old), "already holds a run", "--overwrite")
    assert tree(old) == before
    outcome = write(verb, old, "--overwrite")
    assert outcome.code == 0, outcome
    assert (old / "notes" / "mine.txt").read_text() == "mine"
    left = {path.name for path in old.iterdir() if not path.name.startswith(".efface")}
    assert left == {"delta.safetensors", "run.json", "curves.jsonl", "notes"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".old")]

    # Nothing that a run would replace, whoever wrote it.
    for place in (a_run if verb in ("transfer", "rerun") else model, model, tmp_path / "book"):
        held = tree(place)
        refused(write(verb, place, "--overwrite"))
        assert tree(place) == held
    mine = tmp_path / "working"
    mine.mkdir()
    (mine / "report.html").write_text("mine")
    refused(write(verb, mine, "--overwrite"), "'report.html', which a run would replace")
    (mine / "report.html").rename(mine / "run.json")
    refused(write(verb, mine, "--overwrite"), "was not written by efface")
    assert (mine / "run.json").read_text() == "mine"
    (tmp_path / "link").symlink_to(old)
    refused(write(verb, tmp_path / "link", "--overwrite"), "is a link")


@pytest.mark.thorough
def test_a_picture_replaces_pictures_of_efface_only(efface, model, tmp_path):
    out = tmp_path / "a.png"
    draw = ("generate", "--model", model, "--prompt", "a cat", "--steps", "1", "--out", out)
    assert efface(*draw).code == 0
    first = out.read_bytes()
    assert efface(*draw, "--seed", "1").code == 0
    assert out.read_bytes() != first
    out.write_bytes(b"mine")
    refused(efface(*draw), "is there already and efface did not draw it")
    assert out.read_bytes() == b"mine"
    (tmp_path / "link.png").symlink_to(out)
    refused(efface(*draw[:-1], tmp_path / "link.png"), "is a link")
    refused(efface(*draw[:-1], tmp_path / "a.jpg"), "a.jpg", "PNG")
    (tmp_path / "folder.png").mkdir()
    refused(efface(*draw[:-1], tmp_path / "folder.png"), "efface did not draw it")


@pytest.mark.thorough
def test_a_ledger_is_replayed_whole_or_not_at_all(efface, model, other_model, tmp_path):
    book, out = tmp_path / "book", tmp_path / "made" / "fresh"
    assert efface("ledger", "add", book, "--model", model, "--concept", "cat").code == 0
    replay = ("ledger", "replay", book, "--model", other_model, "--out")
    held = tree(book)
    refused(efface(*replay, book), "in use and would be lost")
    assert tree(book) == held
    assert efface(*replay, out).code == 0
    assert [path.name for path in out.parent.iterdir()] == ["fresh"]
    refused(efface(*replay, out), "exists already")
    assert efface("ledger", "list", out).code == 0
