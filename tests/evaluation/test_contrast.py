"""Two runs compared, and the map of collateral damage, from answers whose counts are known."""

from dataclasses import replace

import pytest

from efface.errors import BadRequest
from efface.evaluation.collateral import collateral, samples_of
from efface.evaluation.contrast import contrast
from efface.metrics.estimates import compare_rates
from tests.reports.conftest import made, samples


def answered(folder, *, left=0, lost=0, **changes):
    """An evaluation of 8 pictures a role: so many still show pistol, so many lost the cat."""
    seen = {"erased": 8 - left, "synonym": 8, "kept": lost}
    counts, after = dict.fromkeys(seen, 0), []
    drawn = samples()
    for one in drawn:
        gone = counts.get(one.role, 0) < seen.get(one.role, 0)
        counts[one.role] = counts.get(one.role, 0) + 1
        after.append(float("nan") if one.concept is None else 0.1 if gone else 0.9)
    before = [float("nan") if one.concept is None else 0.9 for one in drawn]
    answers = {"presence before": tuple(before), "presence after": tuple(after)}
    return made(folder, answers=answers, **changes)


def test_runs_are_paired_by_prompt_and_seed(tmp_path):
    first, second = answered(tmp_path, left=1), answered(tmp_path, left=4, lost=2)
    shuffled = replace(
        second,
        samples=second.samples[::-1],
        answers={name: values[::-1] for name, values in second.answers.items()},
    )
    by_role = {one.role: one for one in contrast(first, shuffled)}
    erased, kept = by_role["erased"], by_role["kept"]
    assert (erased.first.hits, erased.second.hits, erased.first.count) == (1, 4, 8)
    prompts = [one.prompt for one in samples() if one.role == "erased"]
    by_hand = compare_rates([0] * 7 + [1], [0] * 4 + [1] * 4, prompts)
    assert erased.difference == by_hand.difference
    assert (
        erased.p_value == by_hand.p_value == pytest.approx(0.25)
    )  # 2 / 2^3: three changed, one way
    assert kept.difference.value == -0.25
    assert "general" not in by_role  # nothing is asked for there


def test_runs_that_do_not_pair_are_refused(tmp_path):
    one = answered(tmp_path)
    with pytest.raises(BadRequest, match="only runs with a delta are compared"):
        contrast(one, replace(one, after=None))
    with pytest.raises(BadRequest, match="of different models"):
        contrast(one, replace(one, before=replace(one.before, model="another")))
    with pytest.raises(BadRequest, match="judged by emoji-judge and other"):
        contrast(one, replace(one, judge=replace(one.judge, name="other")))
    moved = tuple(replace(each, seed=each.seed + 100) for each in one.samples)
    with pytest.raises(BadRequest, match="share no prompt and seed"):
        contrast(one, replace(one, samples=moved))


def test_the_map_has_what_goes_first_and_then_what_is_lost_most(tmp_path):
    harsh, mild = answered(tmp_path, left=2, lost=4), answered(tmp_path)
    found = collateral({"harsh": harsh, "mild": mild})
    assert found.rows == ("harsh", "mild")
    assert found.columns[:2] == ("pistol", "cat")
    gone, lost = found.cells["harsh", "pistol"], found.cells["harsh", "cat"]
    assert (gone.going, gone.after.hits, gone.after.count) == (True, 2, 8)  # synonyms are apart
    assert (lost.going, lost.lost) == (False, 0.5)
    assert found.cells["mild", "cat"].lost == 0.0
    assert {one.concept.name for one in samples_of(harsh, "cat")} == {"cat"}
