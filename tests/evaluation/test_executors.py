"""Jobs are done once each, whoever does them and whoever dies."""

import os
import signal
from dataclasses import dataclass

import pytest

from efface.errors import BadRequest, MeasurementFailed, MissingInput
from efface.evaluation.executors import Workers, run_all
from efface.evaluation.stores import ResultStore


@dataclass(frozen=True)
class Counting:
    """A job that writes its number, and may kill its worker when it is done the first time."""

    number: int
    kills: int = 0
    """How many workers it kills."""


def work(job, place):
    store = ResultStore(place)
    died = len([name for name in store.names("died") if name.startswith(f"{job.number}-")])
    if died < job.kills:
        store.write(f"died/{job.number}-{died}", b"")
        os.kill(os.getpid(), signal.SIGKILL)
    name = f"done/{job.number}"
    times = int(store.read(name)) + 1 if store.has(name) else 1
    store.write(name, str(times).encode())
    return "five is refused" if job.number == 5 else ""


def done(place):
    store = ResultStore(place)
    return {int(name): int(store.read(f"done/{name}")) for name in store.names("done")}


def heard():
    told = []
    return told, lambda *facts: told.append(facts)


def test_jobs_are_done_in_order_here(tmp_path):
    told, hear = heard()
    jobs = [Counting(number) for number in (3, 5, 7)]
    errors = run_all(jobs, work, str(tmp_path), Workers(executor="local"), hear)
    assert errors == ("five is refused",)
    assert told == [(1, 3, ""), (2, 3, "five is refused"), (3, 3, "")]
    assert done(tmp_path) == {3: 1, 5: 1, 7: 1}


@pytest.mark.slow
def test_a_process_that_dies_loses_nothing(tmp_path):
    jobs = [Counting(0), Counting(1, kills=1), *map(Counting, range(2, 8))]
    told, hear = heard()
    run_all(jobs, work, str(tmp_path), Workers(executor="processes", count=2), hear)
    assert done(tmp_path).keys() == set(range(8))
    assert [facts[:2] for facts in told] == [(n, 8) for n in range(1, 9)]


@pytest.mark.slow
def test_processes_that_die_again_and_again_are_said(tmp_path):
    with pytest.raises(MeasurementFailed, match="workers died 4 times"):
        run_all([Counting(1, kills=9)], work, str(tmp_path), Workers(executor="processes"))


@pytest.mark.slow
def test_ray_does_the_same_and_loses_nothing_to_a_dead_worker(tmp_path):
    pytest.importorskip("ray")
    jobs = [Counting(0), Counting(1, kills=1), Counting(5), *map(Counting, range(6, 9))]
    told, hear = heard()
    errors = run_all(jobs, work, str(tmp_path), Workers(executor="ray", count=2), hear)
    assert errors == ("five is refused",)
    assert done(tmp_path) == dict.fromkeys((0, 1, 5, 6, 7, 8), 1)
    assert len(told) == 6


@pytest.mark.slow
def test_a_job_that_ends_every_worker_of_ray_is_given_up_and_the_others_go_on(tmp_path):
    pytest.importorskip("ray")
    jobs = [Counting(0), Counting(1, kills=9), Counting(2)]
    lost = []
    errors = run_all(
        jobs,
        work,
        str(tmp_path),
        Workers(executor="ray", count=1),
        give_up=lambda job, place, error: lost.append((job.number, place)),
    )
    assert len(errors) == 1
    assert "its worker died 4 times" in errors[0]
    assert lost == [(1, str(tmp_path))]
    assert done(tmp_path) == {0: 1, 2: 1}


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_refused(tmp_path):
    pytest.importorskip("ray")
    workers = Workers(executor="ray", address="127.0.0.1:1")
    with pytest.raises(BadRequest, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        run_all([Counting(0)], work, str(tmp_path), workers)


def test_without_ray_one_is_told_how_to_get_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingInput, match=r"pip install 'efface\[ray\]'"):
        run_all([Counting(0)], work, str(tmp_path), Workers(executor="ray"))


def test_no_workers_are_refused():
    with pytest.raises(BadRequest, match="0 workers; give at least one"):
        Workers(count=0)


def test_a_store_keeps_what_is_written_whole(tmp_path):
    store = ResultStore(tmp_path / "new" / "folder")
    store.write_json("rows/a.json", {"one": 1})
    assert store.has("rows/a.json")
    assert store.names("rows") == ("a.json",)
    assert store.read_json("rows/a.json") == {"one": 1}
    assert store.names("nothing") == ()
    with pytest.raises(BadRequest, match=r"holds no b.json"):
        store.read("b.json")
    assert store.folder == tmp_path / "new" / "folder"
    assert not store.of_one_process
    for _ in range(2):
        store.remove("rows/a.json")
    assert store.names("rows") == ()


def test_what_a_killed_worker_left_of_a_file_goes_when_the_file_is_written_again(tmp_path):
    store = ResultStore(tmp_path)
    store.write("rows/a.json", b"one")
    left = tmp_path / ".unfinished" / ".a.json.left.part"
    left.write_bytes(b"hal")
    assert store.names("rows") == ("a.json",)
    store.write("rows/a.json", b"another")
    assert store.read("rows/a.json") == b"another"
    assert not left.exists()


def test_workers_find_a_store_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = ResultStore("results")
    assert store.address == str(tmp_path / "results")
    assert ResultStore("memory://efface-test/results").address == "memory://efface-test/results"


def test_a_store_may_be_anywhere_that_fsspec_reaches():
    store = ResultStore("memory://efface-test/results")
    store.write_json("rows/a.json", [1])
    again = ResultStore("memory://efface-test/results")
    assert again.of_one_process
    assert again.folder is None
    assert again.read_json("rows/a.json") == [1]
    assert again.names("rows") == ("a.json",)


def test_a_store_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(BadRequest, match="cannot be written to"):
        ResultStore(tmp_path / "file" / "folder")


def test_a_protocol_that_nobody_knows_is_refused():
    with pytest.raises(BadRequest, match="results cannot be kept in nowhere://there"):
        ResultStore("nowhere://there")
