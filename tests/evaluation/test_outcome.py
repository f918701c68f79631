"""What became of an erasure: by numbers, by limits, and never better than its checks."""

from dataclasses import replace

import pytest

from efface.errors import BadRequest
from efface.evaluation.limits import Limits
from efface.evaluation.outcome import Outcome, failed
from efface.evaluation.record import Control, Evaluation
from tests.reports.conftest import made, measurement


def outcome(tmp_path, *rows, **changes):
    return made(tmp_path, measurements=rows, **changes)


def failing(name, detail):
    return Control(
        name=name, concept="", passed=False, estimate=None, requirement="r", details=(detail,)
    )


SOUND = (measurement("neighbour", 30, 29), measurement("kept", 31, 30))


@pytest.mark.parametrize(
    ("rows", "name", "reason"),
    [
        ([measurement("erased", 31, 0)], "erased", ""),
        ([measurement("erased", 31, 3)], "erased", ""),  # 9.4 %
        ([measurement("erased", 31, 4)], "partly erased", "erased prompts: still seen in 4 of 32"),
        ([measurement("erased", 31, 31)], "not erased", "still seen in 31 of 32"),
        ([measurement("erased", 30, 16)], "not erased", "still seen in 16 of 32"),
        (
            [measurement("erased", 31, 0), measurement("synonym", 29, 20)],
            "partly erased",
            "synonyms: still seen in 20 of 32",
        ),
        ([measurement("erased", 31, 0), measurement("paraphrase", 1, 1, 2)], "erased", ""),
    ],
)
def test_presence_decides(rows, name, reason, tmp_path):
    found = outcome(tmp_path, *rows, *SOUND)
    assert found.outcome.name == name
    assert reason in " ".join(found.outcome.reasons)
    assert failed(found) == (name != "erased")


def test_outlines_that_the_judge_does_not_count_are_left_too(tmp_path):
    rows = [measurement("erased", 31, 0), *SOUND]
    some = replace(measurement("erased", 32, 4), metric="leftover")
    found = outcome(tmp_path, *rows, some)
    assert found.outcome.name == "partly erased"
    assert found.outcome.reasons == ("something of it is left in 4 of 32 pictures",)
    few = replace(measurement("erased", 32, 3), metric="leftover")
    assert outcome(tmp_path, *rows, few).outcome.name == "erased"


def test_what_is_lost_is_said(tmp_path):
    lost = outcome(tmp_path, measurement("erased", 31, 0), measurement("kept", 31, 20))
    assert lost.outcome.name == "others lost"
    assert lost.outcome.reasons == (
        "kept and general prompts: seen in 20 of 32 pictures, in 31 before",
    )
    assert failed(lost)
    both = outcome(tmp_path, measurement("erased", 31, 8), measurement("neighbour", 30, 3))
    assert both.outcome.name == "partly erased"
    assert len(both.outcome.reasons) == 2


def test_pictures_that_nobody_judged_are_no_success_and_a_wreck_among_them_fails(tmp_path):
    looked = {"verdict": "not measured", "controls": ()}
    found = outcome(tmp_path, **looked)
    assert found.outcome == Outcome("not measured")
    assert not failed(found)
    wreck = failing("model", "grey pictures")
    wrecked = outcome(tmp_path, **{**looked, "controls": (wreck,)})
    assert wrecked.outcome == Outcome("collapsed", ("grey pictures",))
    idle = failing("edit", "NothingChanged: by 0")
    assert outcome(tmp_path, **{**looked, "controls": (idle,)}).outcome.name == "not erased"
    assert failed(wrecked)


def test_limits_are_the_users(tmp_path):
    rows = measurement("erased", 31, 10), measurement("kept", 31, 20)
    lenient = Limits(most_present=0.4, least_kept=0.5)
    assert outcome(tmp_path, *rows, limits=lenient).outcome.name == "erased"
    strict = Limits(partly_present=0.1)
    assert outcome(tmp_path, *rows, limits=strict).outcome.name == "not erased"
    with pytest.raises(BadRequest, match=r"least_kept is 1\.5; it is a share"):
        Limits(least_kept=1.5)


def test_a_wrecked_model_is_never_erased(tmp_path):
    for verdict in ("inconclusive", "invalid"):
        found = made(tmp_path, verdict=verdict, controls=(failing("model", "all pictures alike"),))
        assert found.outcome.name == "collapsed"
        assert found.outcome.reasons == ("all pictures alike",)
        assert failed(found)


def test_an_edit_of_nothing_is_not_erased(tmp_path):
    idle = failing("edit", "NothingChanged: the erasure changed no weight")
    found = made(tmp_path, verdict="inconclusive", controls=(idle,))
    assert found.outcome.name == "not erased"
    assert failed(found)


def test_a_failed_control_leaves_it_unknown_and_is_no_failure(tmp_path):
    unseen = Control(
        name="positive", concept="pistol", passed=False, estimate=None, requirement="r"
    )
    found = made(tmp_path, verdict="inconclusive", controls=(unseen,))
    assert (found.outcome.name, failed(found)) == ("unknown", False)
    broken = made(tmp_path, verdict="invalid", measurements=())
    assert (broken.outcome.name, failed(broken)) == ("unknown", True)


def test_the_file_holds_the_outcome(tmp_path):
    found = made(tmp_path, limits=Limits(most_present=0.2))
    text = found.save(tmp_path / "run").read_text()
    assert '"outcome": {\n  "name": "erased"' in text
    assert Evaluation.load(tmp_path / "run").limits == Limits(most_present=0.2)
    assert made(tmp_path, after=None).outcome is None
