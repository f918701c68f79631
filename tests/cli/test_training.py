"""Training from the command line: interrupt and resume, previews, methods in turn, bad input."""

import json
import signal
import sys
import time

import pytest
from PIL import Image
from safetensors import safe_open

from efface.cli.main import main
from efface.workbench import making
from tests.processes import started

SMALL = ["--steps", "4", "--trajectories", "4", "--keep-trajectories", "4", "--sampling-steps", "4"]
SMALL += ["--batch", "2", "--keep-batch", "2", "--no-evaluate", "--concept", "pistol"]


@pytest.fixture
def small(model):
    """Words of a short run that trains the toy."""
    return [*SMALL, "--model", str(model), "--keep", "cat"]


def ran(capsys, *arguments):
    """Runs the command line; gives the exit code and what went to standard error."""
    code = main(["erase", *map(str, arguments)])
    return code, capsys.readouterr().err


def delta_of(folder):
    return json.loads((folder / "run.json").read_text())["delta"]


def steps_in(checkpoint):
    """Reads how many steps a run had done when it wrote a checkpoint."""
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, framework="pt") as opened:
        return json.loads(opened.metadata()["checkpoint"])["step"]


def assert_goes_on(small, folder, capsys, code, told):
    """What an interrupted run of many steps told, and what --resume then takes and refuses."""
    out, checkpoint = folder / "run", folder / "run.checkpoint" / "checkpoint.safetensors"
    assert code == 130
    assert "--resume" in told
    assert "efface erase esd" in told
    assert not (out / "run.json").exists()
    code, told = ran(capsys, "esd", *small, "--steps", "3", "--out", out, "--resume")
    assert code == 2
    assert "steps and steps is 3; ask for at least as many" in told
    code, told = ran(capsys, "spm", *small, "--steps", "100000", "--out", out, "--resume")
    assert code == 2
    assert "of another run" in told
    assert checkpoint.exists()


@pytest.mark.thorough
def test_an_interrupted_run_says_how_to_go_on(small, tmp_path, capsys, monkeypatch):
    plain = making.perform

    def stopped(*arguments, watch, **places):
        def stop(step, *_):
            if step == 4:
                raise KeyboardInterrupt

        return plain(*arguments, watch=lambda _: stop, **places)

    with monkeypatch.context() as patched:
        patched.setattr(making, "perform", stopped)
        told = ran(capsys, "esd", *small, "--steps", "100000", "--out", tmp_path / "run")
    assert_goes_on(small, tmp_path, capsys, *told)


@pytest.mark.slow
def test_ctrl_c_in_a_run_that_trains_says_how_to_go_on(small, tmp_path, capsys):
    words = [*small, "--steps", "100000", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "efface.cli.main", "erase", "esd", *words]
    checkpoint = tmp_path / "run.checkpoint" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    with started(command) as process:
        while steps_in(checkpoint) < 4 and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert_goes_on(small, tmp_path, capsys, process.returncode, told)


@pytest.mark.thorough
def test_resuming_without_a_checkpoint_or_without_training_is_refused(small, tmp_path, capsys):
    code, told = ran(capsys, "esd", *small, "--out", tmp_path / "a", "--resume")
    assert code == 2
    assert "no checkpoint" in told
    plain = ["--concept", "pistol", "--no-evaluate", "--resume"]
    code, told = ran(capsys, "uce", *plain, "--out", tmp_path / "b")
    assert code == 2
    assert "uce does not train" in told


@pytest.mark.slow
def test_previews_are_drawn_with_what_was_trained_so_far(small, tmp_path, capsys):
    fast = ["--preview", "2", "--learning-rate", "0.01", "--keep-weight", "0"]
    code, _ = ran(capsys, "esd", *small, *fast, "--out", tmp_path / "run")
    assert code == 0
    shown = sorted((tmp_path / "run" / "previews").iterdir())
    assert [path.name for path in shown] == ["base.png", "step-0002.png", "step-0004.png"]
    pictures = [Image.open(path).tobytes() for path in shown]
    assert len(set(pictures)) == 3
    plain = ["--concept", "pistol", "--no-evaluate", "--overwrite"]
    code, _ = ran(capsys, "uce", *plain, "--out", tmp_path / "run")
    assert code == 0
    assert not (tmp_path / "run" / "previews").exists()  # they were of the run that is replaced
    code, told = ran(capsys, "esd", *small, "--preview", "-1", "--out", tmp_path / "other")
    assert code == 2
    assert "preview is -1" in told


@pytest.mark.slow
def test_methods_in_turn_make_one_run_that_repeats(tmp_path, capsys):
    settings = tmp_path / "stages.toml"
    settings.write_text(
        "[uce]\nridge = 0.01\n[esd]\nsteps = 3\ntrajectories = 2\nkeep_trajectories = 2\n"
        "sampling_steps = 3\nbatch = 2\nkeep_batch = 2\n"
    )
    plain = ["--concept", "pistol", "--no-evaluate", "--settings", settings, "--preview", "1"]
    code, _ = ran(capsys, "uce+esd", *plain, "--out", tmp_path / "run")
    assert code == 0
    shown = {path.stem for path in (tmp_path / "run" / "previews").iterdir()}
    assert {"base", "step-0001", "method-2-step-0001", "method-2-step-0003"} <= shown
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["method"] == "uce+esd"
    assert record["settings"]["uce"]["ridge"] == 0.01
    assert record["settings"]["esd"]["steps"] == 3
    assert main(["rerun", str(tmp_path / "run")]) == 0
    assert "equal" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("table", "told"),
    [("[rece]\nrounds = 1\n", "one table each"), ("[uce]\nrigde = 1.0\n", "did you mean --ridge")],
)
def test_settings_of_stages_are_checked(tmp_path, capsys, table, told):
    (tmp_path / "s.toml").write_text(table)
    plain = ["--concept", "pistol", "--settings", tmp_path / "s.toml", "--out", tmp_path / "run"]
    code, said = ran(capsys, "uce+esd", *plain)
    assert code == 2
    assert told in said


@pytest.mark.parametrize(
    ("method", "flags", "told"),
    [
        ("esd", ["--learning-rate", "1e30", "--steps", "30"], "of the loss became"),
        ("ant", ["--mask-share", "0.0001", "--parameters", "key_value"], "marks no weight"),
        ("esd", ["--saliency", "1e-9"], "marks no weight"),
        ("esd", ["--saliency", "0"], "saliency is 0"),
        ("all_but_one", ["--constraint", "projection", "--parameters", "unet"], "projection"),
        ("esd", ["--keep", "cat " * 90], "more tokens than"),
        ("concept_ablation", ["--target", "anchor"], "name one with --anchor"),
    ],
)
def test_bad_input_is_one_line(small, tmp_path, capsys, method, flags, told):
    code, said = ran(capsys, method, *small, *flags, "--out", tmp_path / "run")
    assert code in (1, 2)
    assert told in said
    assert said.strip().count("\n") <= 2
    assert not (tmp_path / "run" / "run.json").exists()
