"""Experiments that are sweeps ask for what they did before; timings are of workers alone."""

import pytest
from benchmarks.concepts import MEASURED_NOUNS, MEASURED_STYLES, TRAINED_NOUNS, TRAINED_STYLES
from benchmarks.sweeping import jobs, unmeasured

from benchmarks import erasure, implicit, ray_workers, scheduling, training
from efface.evaluation.jobs import missing, perform
from efface.evaluation.stores import ResultStore


@pytest.mark.thorough
def test_committed_results_are_those_of_its_jobs():
    wanted = jobs(("uce",), (*MEASURED_NOUNS, *MEASURED_STYLES))
    assert len(wanted) == 28
    assert unmeasured(erasure.RESULTS, wanted) == []
    wanted = jobs(("trce+trce_vision",), (*TRAINED_NOUNS, *TRAINED_STYLES), seeds=training.SEEDS)
    assert [job.seed for job in wanted] == [0] * 10 + [1] * 10
    assert unmeasured(training.RESULTS, wanted, seeds=True) == []
    wanted = jobs(("uce",), TRAINED_NOUNS, model="emoji-reader", size="implicit")
    assert unmeasured(implicit.RESULTS, wanted) == []


def test_styles_become_another_unless_a_method_takes_no_anchor():
    found = {
        (job.method, job.concept): job.anchor
        for job in jobs(("uce", "few_shot"), ("pistol", "pixel art"))
    }
    assert found == {
        ("uce", "pistol"): None,
        ("uce", "pixel art"): "twemoji",
        ("few_shot", "pistol"): None,
        ("few_shot", "pixel art"): None,
    }


def test_a_missing_result_is_asked_for_under_its_name(tmp_path):
    (job,) = jobs(("uce",), ("soccer ball",))
    assert unmeasured(tmp_path, [job]) == [(job, tmp_path / "uce" / "soccer_ball.json")]
    (both,) = unmeasured(tmp_path, [job], seeds=True)
    assert both[1].name == "soccer_ball-0.json"


def test_workers_are_not_timed_on_a_machine_that_does_other_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ray_workers, "RESULTS", tmp_path / "row.json")
    monkeypatch.setattr(ray_workers, "find_spec", lambda name: name)
    monkeypatch.setattr("os.getloadavg", lambda: (1.25, 0.0, 0.0))
    ray_workers.run()
    assert "not measured: the machine does other work (load 1.25)" in capsys.readouterr().out
    assert not (tmp_path / "row.json").exists()


def test_a_scheduler_that_loses_nothing_leaves_a_result_for_each_job(tmp_path):
    for job in scheduling.jobs(3):
        assert perform(job, str(tmp_path)) == ""
    assert missing(scheduling.jobs(4), ResultStore(tmp_path)) == [scheduling.IdleJob(3)]


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_lose_no_job(tmp_path):
    pytest.importorskip("ray")
    told = scheduling.killed(tmp_path, 1000)
    assert told["done_when_driver_was_killed"] + told["done_by_second_driver"] == 1000
    assert told["done_by_second_driver"] > 0
    assert (told["without_result"], told["failed"]) == (0, 0)
