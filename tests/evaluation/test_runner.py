"""Whole evaluations of a real toy pipeline, and every way an instrument can fail."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from efface.contracts import Sample
from efface.deltas.patches import DensePatch
from efface.errors import BadRequest, MeasurementFailed, MissingInput
from efface.evaluation import Evaluation, evaluate
from efface.evaluation.images import ImageStore
from efface.evaluation.locks import locked
from efface.evaluation.outcome import failed

from .conftest import CAT, KEY, PISTOL, STEPS, AnsweringJudge, small_suite


@pytest.fixture
def found(pipe, delta, judge, tmp_path):
    return evaluate(pipe, delta, small_suite(), judge, store=tmp_path / "pictures")


def test_an_erasure_is_measured_on_the_same_prompts_and_seeds(found):
    assert (found.verdict, found.reasons) == ("valid", ())
    erased = found.find("presence", "erased")
    assert (erased.before.hits, erased.before.count) == (4, 4)
    assert (erased.after.hits, erased.after.count) == (0, 4)
    assert erased.change.value == -1
    assert erased.p_value == pytest.approx(0.125)  # 4 of 4 lost: 2 / 2**4
    assert erased.better == "lower"
    assert found.find("presence", "kept").better == "higher"
    assert found.suite == "small@3"
    assert found.erased == ("pistol",)


def test_costs_and_changes_are_part_of_the_result(found, toy):
    before, after = found.costs["before"], found.costs["after"]
    assert before.pictures == after.pictures == 6
    assert before.network_evaluations == 6 * STEPS * 2  # guidance evaluates twice
    assert before.seconds > 0
    assert before.peak_bytes > 0
    assert [change.key for change in found.changed] == [KEY]
    assert found.parameters_touched == toy.unet.conv_out.weight.numel()
    assert found.changed[0].before != found.changed[0].after


def test_the_pipeline_is_left_as_it_was(pipe, delta, judge, toy, tmp_path):
    before = {name: value.clone() for name, value in toy.unet.state_dict().items()}
    evaluate(pipe, delta, small_suite(), judge, store=tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in toy.unet.state_dict().items())
    assert not toy.unet._forward_pre_hooks
    assert toy._progress_bar_config == {"disable": True}  # as models.tiny sets it


def test_everything_survives_the_file(found, tmp_path):
    path = found.save(tmp_path / "run")
    loaded = Evaluation.load(tmp_path / "run")
    assert dataclasses.replace(loaded, provenance={}) == dataclasses.replace(found, provenance={})
    assert json.loads(path.read_text())["store"] == "../pictures"
    assert loaded.picture(found.samples[0], edited=True).is_file()


@pytest.mark.thorough
def test_a_second_metric_draws_nothing(pipe, delta, judge, tmp_path):
    evaluate(pipe, delta, small_suite(), judge, store=tmp_path)
    calls, asked = pipe.calls, judge.asked
    suite = small_suite(image_metrics=("presence", "clip_score"), set_metrics=("feature_distance",))
    found = evaluate(pipe, delta, suite, judge, store=tmp_path, clip=_Clip())
    assert pipe.calls == calls
    assert judge.asked == asked
    assert found.find("clip_score", "erased").better == "lower"
    assert found.instruments["clip"] == "_Clip"


def test_sets_that_must_stay_are_compared_by_features(pipe, delta, judge, tmp_path):
    samples = (*small_suite().samples, Sample("a photo of a cat", 2, "kept", CAT))
    suite = small_suite(samples=samples, set_metrics=("feature_distance", "kid"))
    found = evaluate(pipe, delta, suite, judge, store=tmp_path)
    moved = found.find("feature_distance", "kept")
    assert moved.change.count == 3
    assert moved.change.value > 0.01
    assert found.find("kid", "kept").change.count == 3
    assert found.find("feature_distance", "erased") is None
    assert found.instruments["features"] == "features of memory@1"


@pytest.mark.thorough
def test_an_interrupted_run_goes_on_where_it_stopped(pipe, delta, judge, tmp_path):
    store = ImageStore(tmp_path, batch_size=1)
    pipe.interrupt_at = 8  # six of the base, then two edited ones
    with pytest.raises(KeyboardInterrupt):
        evaluate(pipe, delta, small_suite(), judge, store=store)
    pipe.interrupt_at = None
    found = evaluate(pipe, delta, small_suite(), judge, store=store)
    assert pipe.calls == 12
    assert found.verdict == "valid"


def test_the_unedited_model_alone_can_be_measured(pipe, judge, tmp_path):
    found = evaluate(pipe, None, small_suite(), judge, store=tmp_path)
    erased = found.find("presence", "erased")
    assert erased.before.value == 1
    assert erased.after is erased.change is erased.p_value is None
    assert found.after is None
    assert found.picture(found.samples[0], edited=True) is None


def _raising(images, concept):
    raise RuntimeError("weights are gone")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_raising, "RuntimeError: weights are gone"),
        (lambda images, _: torch.full((len(images),), math.nan), "no finite answer for 4 of 4"),
        (lambda images, _: torch.full((len(images),), 1.5), "1.5, which is no probability"),
        (lambda images, _: torch.ones(len(images) + 1), "answered with shape (5,), not (4,)"),
        (lambda images, _: None, "presence of pistol by answering@1 failed"),
    ],
)
def test_a_failing_judge_gives_invalid_and_never_a_number(pipe, delta, tmp_path, answer, reason):
    found = evaluate(pipe, delta, small_suite(), AnsweringJudge(answer), store=tmp_path)
    assert found.verdict == "invalid"
    assert any(reason in text for text in found.reasons)
    assert found.measurements == ()
    judged = [one for one in found.controls if one.name in ("positive", "negative")]
    assert all(control.estimate is None and not control.passed for control in judged)
    assert found.outcome.name == "unknown"
    assert failed(found)
    assert Evaluation.load(found.save(tmp_path).parent).verdict == "invalid"


def test_one_picture_without_an_answer_is_enough_for_invalid(pipe, delta, tmp_path):
    def mostly(images, concept):
        answers = torch.ones(len(images))
        answers[-1] = math.nan
        return answers

    found = evaluate(pipe, delta, small_suite(), AnsweringJudge(mostly), store=tmp_path)
    assert found.verdict == "invalid"
    assert any("for 1 of 4 pictures" in reason for reason in found.reasons)


def test_a_judge_that_cannot_say_what_it_knows_is_refused_before_drawing(pipe, delta, tmp_path):
    broken = AnsweringJudge(_raising)
    broken.knows = lambda concept: 1 / 0
    with pytest.raises(MeasurementFailed, match="knows 'pistol', failed: ZeroDivisionError"):
        evaluate(
            pipe, delta, small_suite(samples=small_suite().samples[:1]), broken, store=tmp_path
        )
    odd = AnsweringJudge(_raising)
    odd.card = dataclasses.replace(odd.card, threshold="half")
    with pytest.raises(MeasurementFailed, match="the threshold 'half'; it must be a number"):
        evaluate(pipe, delta, small_suite(), odd, store=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_judge_is_asked_again_after_it_failed(pipe, delta, judge, tmp_path):
    judge.card = dataclasses.replace(judge.card, name="answering")
    evaluate(pipe, delta, small_suite(), AnsweringJudge(_raising), store=tmp_path)
    assert evaluate(pipe, delta, small_suite(), judge, store=tmp_path).verdict == "valid"


def test_a_failing_metric_of_sets_is_invalid_too(pipe, delta, judge, tmp_path):
    judge.features = lambda images: torch.full((len(images), 2), math.nan)
    samples = (*small_suite().samples, Sample("a photo of a cat", 2, "kept", CAT))
    suite = small_suite(samples=samples, set_metrics=("kid",))
    found = evaluate(pipe, delta, suite, judge, store=tmp_path)
    assert found.verdict == "invalid"
    assert found.measurements == ()


def test_a_blind_judge_is_inconclusive(pipe, delta, tmp_path):
    blind = AnsweringJudge(lambda images, _: torch.zeros(len(images)))
    found = evaluate(pipe, delta, small_suite(), blind, store=tmp_path)
    assert found.verdict == "inconclusive"
    assert "positive control failed with 0 of 4" in found.reasons[0]


def test_a_judge_that_sees_it_everywhere_is_inconclusive(pipe, delta, tmp_path):
    eager = AnsweringJudge(lambda images, _: torch.ones(len(images)))
    found = evaluate(pipe, delta, small_suite(), eager, store=tmp_path)
    assert found.verdict == "inconclusive"
    assert {control.name: control.passed for control in found.controls} == {
        "positive": True,
        "negative": False,
        "model": True,
        "edit": True,
    }
    assert found.outcome.name == "unknown"
    assert "negative control failed with 2 of 2" in found.reasons[0]


def test_bad_suites_are_refused_before_anything_is_drawn(pipe, delta, judge, tmp_path):
    first = small_suite().samples[0]
    stranger = Sample("a red tree", 0, "kept", dataclasses.replace(CAT, name="tree"))
    for samples, reason in (
        ((), "no prompt of an erased concept"),
        ((first, first), "twice"),
        ((dataclasses.replace(first, concept=None),), "does not name the concept"),
        ((first, stranger), "memory cannot recognise tree"),
    ):
        with pytest.raises(BadRequest, match=reason):
            evaluate(pipe, delta, small_suite(samples=samples), judge, store=tmp_path)
    with pytest.raises(BadRequest, match="did you mean presence"):
        evaluate(pipe, delta, small_suite(image_metrics=("presense",)), judge, store=tmp_path)
    with pytest.raises(BadRequest, match="kid does not score one picture"):
        evaluate(pipe, delta, small_suite(image_metrics=("kid",)), judge, store=tmp_path)
    with pytest.raises(MissingInput, match="clip_score needs clip"):
        evaluate(pipe, delta, small_suite(image_metrics=("clip_score",)), judge, store=tmp_path)
    assert pipe.calls == 0


def test_a_second_run_over_the_same_pictures_is_refused(pipe, delta, judge, tmp_path):
    found = evaluate(pipe, delta, small_suite(), judge, store=tmp_path)
    folder = tmp_path / found.after.key
    other = f"""
        import sys, pathlib
        from efface.evaluation.locks import locked
        with locked(pathlib.Path({str(folder)!r})):
            print("held", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(other)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BadRequest, match=f"in use by process {process.pid}"):
            evaluate(pipe, delta, small_suite(), judge, store=tmp_path)
        process.kill()
    with locked(folder):  # the killed process left its files, and they are no obstacle
        assert (folder / ".efface.holder").read_text() == str(os.getpid())


class _Clip:
    def image_features(self, images):
        return images.flatten(1)[:, :4]

    def text_features(self, texts):
        return torch.ones(len(texts), 4)


def test_monitor_hears_of_every_batch(pipe, judge, tmp_path):
    heard = []
    store = ImageStore(tmp_path, batch_size=4)
    evaluate(
        pipe, None, small_suite(), judge, store=store, monitor=lambda *step: heard.append(step[:2])
    )
    assert heard[:2] == [(3, 6), (5, 6)]


def test_roles_with_several_concepts_are_also_given_apart(pipe, judge, known, tmp_path):
    known = {**known, "dog": known["pistol"]}
    dog = dataclasses.replace(PISTOL, name="dog")
    judge.known = known
    samples = (*small_suite().samples, Sample("a photo of a dog", 0, "erased", dog))
    found = evaluate(pipe, None, small_suite(samples=samples), judge, store=tmp_path)
    assert found.find("presence", "erased", "pistol").before.value == 1
    assert found.find("presence", "erased", "dog").before.value == 0
    assert found.find("presence", "kept", "cat") is None  # the only one of its role
    assert found.verdict == "inconclusive"


def test_a_wrecked_model_is_collapsed_whoever_made_it(pipe, delta, judge, toy, tmp_path):
    weight = toy.unet.conv_out.weight.detach()
    wreck = dataclasses.replace(delta, patches={KEY: DensePatch(-weight)})
    found = evaluate(pipe, wreck, small_suite(), judge, store=tmp_path)
    assert (found.verdict, found.outcome.name) == ("inconclusive", "collapsed")
    assert failed(found)
    assert any("so the layer is gone" in reason for reason in found.reasons)


def test_scores_of_another_instrument_and_of_older_versions_are_not_read(pipe, tmp_path):
    def judge(answer):
        return AnsweringJudge(lambda images, _: torch.full((len(images),), answer))

    first = evaluate(pipe, None, small_suite(), judge(0.9), store=tmp_path)
    second = evaluate(pipe, None, small_suite(), judge(0.1), store=tmp_path)
    assert first.judge == second.judge
    assert first.find("presence", "erased").before.value == 1
    assert second.find("presence", "erased").before.value == 0
    assert first.identities["judge"] != second.identities["judge"]
    rows = tmp_path / first.before.key / "scores.jsonl"
    rows.write_text('["a sample", "presence by answering@1", 0.9]')
    third = evaluate(pipe, None, small_suite(), judge(0.1), store=tmp_path)
    assert "1 scores" in third.notes[0]
    assert third.answers["presence before"] == pytest.approx((0.1,) * 6)
