"""`efface sweep`: what it refuses, lists, does and leaves."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.judges.toys import saved_clip

BASE = """
methods = ["uce", "rece"]
concepts = ["pistol"]
keep = ["cat"]
"""


@pytest.fixture
def sweep(efface, tmp_path, model):
    """Runs a sweep of a text, on the toy model, in this process."""

    def run(text, *flags, measure=False):
        file = tmp_path / "sweep.toml"
        measured = "" if measure else "measure = false\n"
        file.write_text(f"model = '{model}'\n{measured}{text}")
        out = tmp_path / "out"
        return efface("sweep", file, "--out", out, "--executor", "local", *flags)

    return run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = ['uce']", "has 'method'; did you mean methods?"),
        ("methods = 'uce'", "methods is 'uce'; it is a list of texts"),
        (
            "methods = ['uce']\nconcepts = ['cat', ' cat']",
            "is the same job as 'uce on cat, seed 0'",
        ),
        ("methods = ['scrub']\nconcepts = ['cat']", "scrub edits models that read pictures"),
        (f"methods = ['uce']\nconcepts = ['cat']\nseeds = [{2**63}]", "at most 63 bits"),
        ("seeds = [true]", "seeds is [True]; it is a list of whole numbers"),
        ("deltas = 1", "deltas is 1; it is true or false"),
        ("methods = ['uce']", "names no concepts"),
        ("methods = ['uces']\nconcepts = ['cat']", "did you mean"),
        (BASE + "[settings.uec]\nridge = 1", "[settings] has 'uec'; did you mean uce?"),
        (BASE + "[grid]\nuec = {}", "[grid] has 'uec'; did you mean uce?"),
        (BASE + "[grid]\nuce = [1]", "[1] is no table of settings"),
        (BASE + "[settings.rece]\nrigde = 1.0", "did you mean --ridge?"),
        (BASE + "[settings.rece]\nridge = 'much'", "ridge"),
        (BASE + "[grid.rece]\nridge = 1.0", "ridge = 1.0 in [grid] is no list of values to try"),
        (BASE + "[grid.rece]\nridge = [0.1, 0.1]", "is the same job as"),
        (BASE + "[anchors]\npistl = 'cat'", "[anchors] has 'pistl'; did you mean pistol?"),
        ("measure = false\nsize = 'smoke'\n" + BASE, "measure is false and size says how"),
        ("methods = ['uce+rece']\nconcepts = ['cat']\n[settings.'uce+rece']\nuces = {}", "uce?"),
        ("methods = ['uce+rece']\nconcepts = ['cat']\n[settings.'uce+rece']\nuce = 1", "a table"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(sweep, tmp_path, text, message):
    done = sweep(text, measure="measure" in text)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_judge_is_not_measured_by_chance(sweep):
    done = sweep(BASE, measure=True)
    assert done.code == 2
    assert "needs a judge to be measured" in done.err


def test_a_dry_run_lists_jobs_and_makes_no_folder(sweep, tmp_path):
    text = BASE + "seeds = [0, 1]\n[grid.rece]\nridge = [0.1, 0.2]\nrounds = [1, 2]\n"
    done = sweep(text, "--dry-run")
    assert done.code == 0, done
    assert "10 jobs, 10 to do" in done.out
    assert "rece ridge=0.2 rounds=1 on pistol, seed 1: 0 pictures" in done.out
    assert not (tmp_path / "out").exists()


def test_a_grid_of_methods_in_turn_lies_in_their_tables(sweep):
    text = "methods = ['uce+rece']\nconcepts = ['pistol']\n"
    text += "[settings.'uce+rece']\nuce.ridge = 0.5\nrece.rounds = 2\n"
    text += "[grid.'uce+rece']\nuce.ridge = [0.1, 0.2]\n"
    done = sweep(text, "--dry-run", "--json")
    titles = [job["job"] for job in done.json["jobs"]]
    assert titles == [
        f"uce+rece uce.ridge={ridge} rece.rounds=2 on pistol, seed 0" for ridge in (0.1, 0.2)
    ]


@pytest.mark.thorough
def test_rows_and_table_are_written_and_nothing_is_done_twice(sweep, tmp_path):
    done = sweep(BASE)
    assert done.code == 0, done
    assert "wrote rows.jsonl and table.md" in done.out
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [(row["method"], row["state"]) for row in rows] == [("uce", "done"), ("rece", "done")]
    assert (out / "table.md").read_text().startswith("| method | jobs |")
    stamps = {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}
    again = sweep(BASE, "--json")
    assert again.json["rows"] == rows
    assert stamps == {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}


@pytest.mark.thorough
def test_failures_are_told_and_make_the_exit_code_one(sweep, monkeypatch):
    from efface.errors import NothingChanged
    from efface.evaluation import sweep_jobs

    def nothing(recipe, pipe):
        raise NothingChanged(f"{recipe.method} did nothing")

    with monkeypatch.context() as patch:
        patch.setattr(sweep_jobs, "perform", nothing)
        done = sweep(BASE)
        assert done.code == 1
        assert "failed: rece on pistol, seed 0: rece did nothing" in done.out
        assert "2 jobs failed; to do them again, give --retry" in done.out
    assert sweep(BASE).code == 1
    assert sweep(BASE, "--retry").code == 0


def test_the_place_is_named_after_the_file_unless_it_is_given(efface, tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(f"model = '{model}'\nmeasure = false\n{BASE}")
    assert efface("sweep", "small.toml", "--executor", "local").code == 0
    assert (tmp_path / "runs" / "small" / "rows.jsonl").is_file()
    assert "--out is empty" in efface("sweep", "small.toml", "--out", "").err


@pytest.mark.slow
def test_a_folder_is_measured_by_the_judge_that_is_named(sweep, tmp_path):
    clip = saved_clip(tmp_path / "clip")
    text = f"judge = 'zero_shot'\njudge_folder = '{clip}'\nsize = 'smoke'\n"
    text += "methods = ['uce']\nconcepts = ['pistol']\nkeep = ['cat']\n"
    done = sweep(text, "--json", measure=True)
    assert done.code == 0, done
    (row,) = done.json["rows"]
    assert row["verdict"] in ("valid", "inconclusive")
    assert row["rates"]["erased"][2] == 6
    assert list((tmp_path / "out" / "sheets").iterdir())


def living(group):
    """Lists processes of a group that have not ended."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return [row for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


@pytest.mark.slow
def test_ctrl_c_ends_processes_at_once_and_keeps_what_is_done(tmp_path):
    file, out = tmp_path / "sweep.toml", tmp_path / "out"
    file.write_text("methods = ['uce']\nconcepts = ['pistol', 'cat', 'frog']\nsize = 'smoke'\n")
    words = [sys.executable, "-m", "efface", "sweep", str(file), "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # As in a terminal.
    with subprocess.Popen([*words, "--workers", "1"], start_new_session=True, **pipes) as child:
        while child.poll() is None and not list((out / "rows").glob("*.json")):
            time.sleep(0.2)
        began = time.perf_counter()
        os.killpg(child.pid, signal.SIGINT)
        _, told = child.communicate(timeout=60)
    assert child.returncode == 130
    assert time.perf_counter() - began < 20
    # Python itself may say after it that a killed process left semaphores, and cleans them up.
    assert "results so far are kept; run the same command again to go on" in told
    assert "Traceback" not in told
    while (left := living(child.pid)) and time.perf_counter() - began < 30:
        time.sleep(0.2)
    assert left == []
    rows = [json.loads(path.read_text()) for path in (out / "rows").glob("*.json")]
    assert len(rows) == 1
    listed = subprocess.run([*words, "--dry-run", "--json"], capture_output=True, check=True)
    states = [job["state"] for job in json.loads(listed.stdout)["jobs"]]
    assert sorted(states) == ["done", "not done", "not done"]


@pytest.mark.parametrize("verb", ["sweep", "matrix"])
@pytest.mark.parametrize("name", ["run.json", "model_index.json", "ledger.json"])
def test_results_do_not_lie_among_files_of_something_else(efface, tmp_path, model, verb, name):
    (out := tmp_path / "out").mkdir()
    (out / name).write_text("{}")
    (file := tmp_path / "sweep.toml").write_text(f"model = '{model}'\nmeasure = false\n{BASE}")
    asked = (file,) if verb == "sweep" else ("--methods", "uce", "--concepts", "cat")
    done = efface(verb, *asked, "--out", out, "--executor", "local")
    assert done.code == 2
    assert "out is the folder of a" in done.err
    assert [each.name for each in out.iterdir()] == [name]


@pytest.mark.thorough
def test_a_damaged_result_says_how_it_is_made_again(sweep, tmp_path):
    assert sweep(BASE).code == 0
    row = next((tmp_path / "out" / "rows").iterdir())
    row.write_text("{")
    assert "remove it, and the same command makes it again" in sweep(BASE).err
    row.unlink()
    assert sweep(BASE).code == 0
