"""Every kind of run is repeated to the same delta; its printed command is read as its recipe."""

import json
import shlex
import shutil

import pytest
from safetensors.torch import load_file, save_file

import efface as library
from efface.hosts.loading import load
from efface.workbench import runs
from tests.cli.test_bad_input import refused

TRAINED = {"steps": 2, "batch": 2, "sampling_steps": 2, "trajectories": 2}


def record(folder):
    return json.loads((folder / "run.json").read_text("utf-8"))


def assert_repeats(efface, folder, tmp_path):
    """Repeats a run by its record and by its command; both give the delta that it has."""
    outcome = efface("rerun", folder, "--json")
    assert (outcome.code, outcome.json["equal"]) == (0, True), outcome
    recipe = runs.recipe_of(folder)
    words = shlex.split(recipe.command(str(tmp_path / "again")))[1:]
    extra = ["--no-evaluate"] if words[0] == "erase" else []
    outcome = efface(*words, *extra)
    assert outcome.code == 0, outcome
    assert runs.recipe_of(tmp_path / "again") == recipe
    assert record(tmp_path / "again")["delta"] == record(folder)["delta"]


@pytest.mark.thorough
def test_an_erasure_with_everything_said(efface, model, tmp_path):
    out = tmp_path / "run"
    words = ("--concept", "van gogh", "--kind", "style", "--keep", "a cat", "--keep-kind", "object")
    words += ("--anchor", "art", "--synonyms", "vincent", "--always-keep", "", "it's", "--seed", 7)
    words += ("--preset", "paper-sd14-art", "--model", model)
    assert efface("erase", "uce", *words, "--no-evaluate", "--out", out).code == 0
    assert record(out)["recipe"]["request"]["erasures"][0]["concept"]["synonyms"] == ["vincent"]
    assert_repeats(efface, out, tmp_path)


@pytest.mark.slow
def test_stages_with_flags_of_their_own(efface, model, tmp_path):
    out = tmp_path / "run"
    flags = [f"--esd.{name.replace('_', '-')}={value}" for name, value in TRAINED.items()]
    words = ("erase", "uce+esd", "--model", model, "--concept", "pistol", "--uce.ridge", "0.25")
    assert efface(*words, *flags, "--no-evaluate", "--out", out).code == 0
    assert record(out)["settings"]["uce"]["ridge"] == 0.25
    assert record(out)["settings"]["esd"]["steps"] == 2
    assert_repeats(efface, out, tmp_path)
    outcome = efface(*words, "--esd.setps", "3", "--out", tmp_path / "x")
    refused(outcome, "stage esd", "did you mean --steps?")


@pytest.mark.slow
def test_a_ledger_repeats_with_its_weights_and_without_its_folder(efface, model, tmp_path):
    book, out = tmp_path / "book", tmp_path / "run"
    add = ("ledger", "add", book, "--model", model, "--concept")
    assert efface(*add, "pistol", "--id", "a", "--weight", "2.5", "--keep", "cat").code == 0
    assert efface(*add, "church", "--id", "b").code == 0
    assert efface("ledger", "erase", book, "--model", model, "--out", out).code == 0
    weights = [(one["id"], one["weight"]) for one in record(out)["recipe"]["entries"]]
    assert weights == [("a", 2.5), ("b", 1.0)]
    assert_repeats(efface, out, tmp_path)
    shutil.rmtree(book)
    assert efface("rerun", out, "--json").json["equal"]


def test_a_ledger_run_of_before_says_that_its_weights_are_unknown(efface, made_run, tmp_path):
    out = shutil.copytree(made_run, tmp_path / "old")
    old = record(out)
    del old["recipe"]["kind"]
    old["diagnostics"]["entries"] = 2
    (out / "run.json").write_text(json.dumps(old))
    refused(efface("rerun", out), "does not hold the weights of its ledger's entries")


@pytest.mark.thorough
def test_an_import_repeats_while_its_file_is_there(efface, a_run, model, tmp_path):
    file, out = tmp_path / "edit.safetensors", tmp_path / "imported"
    export = ("export", a_run, "--as", "kohya", "--out", file, "--model", model)
    assert efface(*export).code == 0
    back = ("import", file, "--model", model, "--concept", "pistol", "--keep", "cat")
    assert efface(*back, "--out", out).code == 0
    assert_repeats(efface, out, tmp_path)
    tensors = {name: tensor * 1.5 for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    changed = efface("rerun", out)
    assert (changed.code, "different" in changed.out) == (1, True)
    file.unlink()
    refused(efface("rerun", out), "there is no file or folder")


@pytest.mark.slow
def test_a_transfer_repeats_while_its_run_is_there(efface, a_run, model, tuned, tmp_path):
    out = tmp_path / "carried"
    assert efface("transfer", a_run, "--model", tuned, "--out", out).code == 0
    assert_repeats(efface, out, tmp_path)
    other = (
        "erase",
        "uce",
        "--model",
        model,
        "--concept",
        "church",
        "--no-evaluate",
        "--overwrite",
    )
    assert efface(*other, "--out", a_run).code == 0
    refused(efface("rerun", out), "was transferred; transfer it again")
    old = record(out)
    old["recipe"] = {**record(a_run)["recipe"], "model": str(tuned)}
    del old["recipe"]["kind"]
    (out / "run.json").write_text(json.dumps(old))
    refused(efface("rerun", out), "does not say which run it was transferred from")


@pytest.fixture
def tuned(model, tmp_path):
    """Another copy of the toy model, for transfers."""
    return shutil.copytree(model, tmp_path / "tuned")


@pytest.fixture
def saved(model, tmp_path):
    """What the README saves from Python."""
    made = library.erase(load(model), "pistol", method="rece", keep=["cat"], rounds=1)
    made.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.thorough
def test_a_result_saved_from_python_is_a_run(efface, saved, tuned, tmp_path):
    assert_repeats(efface, saved, tmp_path)
    assert efface("verify", saved).code == 0
    draw = ("--prompt", "a cat", "--steps", "1", "--out", tmp_path / "a.png")
    assert efface("apply", saved, *draw).code == 0
    assert efface("export", saved, "--as", "kohya", "--out", tmp_path / "a.safetensors").code == 0
    assert efface("transfer", saved, "--model", tuned, "--out", tmp_path / "there").code == 0
    measured = efface("evaluate", saved)
    assert "how to repeat the run" not in measured.err


@pytest.mark.slow
def test_a_result_that_an_older_version_saved_is_a_run_too(efface, saved, model):
    old = record(saved)
    recipe = old.pop("recipe")
    old |= {"preset": None, "settings_given": [*recipe["settings"]]}
    (saved / "run.json").write_text(json.dumps(old))
    assert efface("rerun", saved, "--model", model, "--json").json["equal"]


@pytest.mark.slow
def test_a_method_object_of_python_is_repeated(efface, model, tmp_path):
    from efface.methods.uce import Uce

    pipe = load(model)
    made = library.erase(pipe, "pistol", method=[Uce(ridge=0.25), "uce"], keep=["cat"])
    made.save(tmp_path / "saved")
    assert_repeats(efface, tmp_path / "saved", tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("changed", ["delta.safetensors", "run.json"])
def test_a_run_whose_files_do_not_belong_together_is_refused(
    efface, made_run, a_run, model, tmp_path, changed
):
    other = tmp_path / "other"
    erase = ("erase", "uce", "--model", model, "--concept", "church", "--no-evaluate")
    assert efface(*erase, "--out", other).code == 0
    shutil.copyfile(other / changed, a_run / changed)
    draw = ("--model", model, "--prompt", "a", "--steps", "1", "--out", tmp_path / "a.png")
    for source in (a_run, a_run / "delta.safetensors"):
        refused(efface("apply", source, *draw), "is not the file that run.json names")
        refused(efface("generate", "--delta", source, *draw), "is not the file that run.json names")
    refused(efface("apply", a_run, "--in-place-copy", tmp_path / "copy"), "run.json names")
    assert not (tmp_path / "a.png").exists()


def test_a_changed_header_is_refused_with_an_old_record_too(efface, made_run, a_run, tmp_path):
    """Without a hash of the file, the delta's id still tells."""
    held = record(a_run)
    del held["sha256"]
    held["delta"] = "0123456789abcdef"
    (a_run / "run.json").write_text(json.dumps(held))
    draw = ("--prompt", "a", "--steps", "1", "--out", tmp_path / "a.png")
    refused(efface("apply", a_run, *draw), "is not the file that run.json names")


def test_a_record_decides_nothing_but_its_settings(efface, a_run, tmp_path):
    for name in ("cache", "checkpoint", "monitor"):
        held = record(a_run)
        held["recipe"]["settings"] = {name: str(tmp_path / "evil")}
        held["settings"][name] = str(tmp_path / "evil")
        (a_run / "run.json").write_text(json.dumps(held))
        refused(efface("rerun", a_run), f"no setting of uce called '{name}'")
        assert not (tmp_path / "evil").exists()


def stale(folder):
    """Puts what an earlier run was measured with into a folder."""
    for name in ("report.html", "card.md", "card.json", "evaluation.json"):
        (folder / name).write_text("of another delta")
    for name in ("smoke", "previews"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "0.png").write_text("of another delta")


LEFT = {"delta.safetensors", "run.json", "curves.jsonl"}


@pytest.mark.thorough
def test_no_verb_leaves_files_of_an_older_run_beside_a_new_delta(
    efface, made_run, model, tuned, tmp_path
):
    file, book = tmp_path / "edit.safetensors", tmp_path / "book"
    assert efface("export", made_run, "--as", "kohya", "--out", file, "--model", model).code == 0
    add = ("ledger", "add", book, "--model", model, "--concept", "pistol", "--keep", "cat")
    assert efface(*add).code == 0
    verbs = (
        ("erase", "uce", "--model", model, "--concept", "church", "--no-evaluate"),
        ("import", file, "--model", model, "--concept", "pistol"),
        ("transfer", made_run, "--model", tuned),
        ("ledger", "erase", book, "--model", model),
        ("rerun", made_run),
    )
    for place, words in enumerate(verbs):
        out = shutil.copytree(made_run, tmp_path / f"run{place}")
        stale(out)
        refused(efface(*words, "--out", out), "already holds a run")
        assert (out / "card.md").exists()
        outcome = efface(*words, "--out", out, "--overwrite")
        assert outcome.code == 0, outcome
        left = {path.name for path in out.iterdir() if not path.name.startswith(".")}
        assert left == LEFT, words


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("erase", "concept_ablation", "--concept", "a"), "puts an anchor"),
        (("erase", "uce", "--concept", "a", "--resume"), "does not train"),
        (("erase", "uce+esd", "--concept", "a", "--resume"), "there is no checkpoint"),
        (("erase", "uce", "--concept", "a", "--cache", "{file}"), "is a file"),
        (("erase", "uce", "--concept", "a", "--concept", "b", "--synonyms", "c"), "of which"),
        (("erase", "uce", "--concept", "a pistol", "--keep", "pistol"), "both erased and kept"),
        (("import", "none.pt", "--concept", "a"), "there is no file or folder none.pt"),
        (("ledger", "add", "{out}", "--concept", "a", "--date", "yesterday"), "is not a day"),
        (("ledger", "add", "{out}", "--concept", "a", "--weight", "0"), "must be above zero"),
        (("ledger", "add", "{out}", "--concept", "a", "--id", "a/b"), "cannot be the id"),
        (
            ("debias", "--concept", "a", "--judge", "emoji", "--attributes", "sepia"),
            "at least two different ones",
        ),
    ],
)
def test_what_can_be_seen_in_the_arguments_is_told_before_a_model_is_loaded(
    efface, tmp_path, monkeypatch, words, told
):
    def never(*_, **__):
        pytest.fail("a model was loaded")

    for module in ("erase.host_for", "importing.load_host", "ledger.load_host", "debias.load_host"):
        monkeypatch.setattr(f"efface.cli.{module}", never)
    (tmp_path / "file").write_text("x")
    places = {"file": tmp_path / "file", "out": tmp_path / "run"}
    out = () if words[0] == "ledger" else ("--out", tmp_path / "run")
    outcome = efface(*(word.format(**places) for word in words), "--model", "./m", *out)
    refused(outcome, told)
    assert not (tmp_path / "run").exists()
