"""Experiments that are sweeps ask for what they did before they were."""

from benchmarks.concepts import MEASURED_NOUNS, MEASURED_STYLES, TRAINED_NOUNS, TRAINED_STYLES
from benchmarks.sweeping import jobs, unmeasured

from benchmarks import erasure, implicit, training


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
