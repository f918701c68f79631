"""One writer per run folder, and nothing half-written."""

import pytest

from efface.errors import BadRequest
from efface.workbench.folder import locked


def test_files_appear_together_at_the_end(tmp_path):
    with locked(tmp_path / "run") as folder, folder.staged() as staging:
        (staging / "a").write_text("new")
        (staging / "more").mkdir()
        (staging / "more" / "b").write_text("new")
        assert not (tmp_path / "run" / "a").exists()
    assert (tmp_path / "run" / "a").read_text() == "new"
    assert (tmp_path / "run" / "more" / "b").read_text() == "new"


def test_a_failure_keeps_the_old_files(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), locked(run) as folder, folder.staged() as staging:
        (staging / "a").write_text("half")
        raise KeyboardInterrupt
    assert (run / "a").read_text() == "old"
    assert not (run / ".partial").exists()


def test_a_folder_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "some" / "run"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_refused(tmp_path):
    with locked(tmp_path / "run"):
        with pytest.raises(BadRequest, match=r"run is in use by process \d+; wait"):
            locked(tmp_path / "run").__enter__()
    with locked(tmp_path / "run"):
        pass


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(BadRequest, match="is a file; a run is a folder"):
        locked(tmp_path / "run").__enter__()
    assert (tmp_path / "run").read_text() == "mine"


def test_leftovers_of_a_killed_run_are_no_obstacle(tmp_path):
    (tmp_path / "run" / ".partial").mkdir(parents=True)
    (tmp_path / "run" / ".partial" / "half").write_text("half")
    (tmp_path / "run" / ".efface.lock").write_text("")
    with locked(tmp_path / "run") as folder, folder.staged() as staging:
        (staging / "a").write_text("new")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".efface.lock", "a"}
