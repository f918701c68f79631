"""Controls, verdict and outcome of forgetting: what each kind of edit ends as."""

import math

import pytest
import torch

from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.answers import Answers
from efface.evaluation.forgetting_scores import ForgottenClasses
from efface.evaluation.limits import Limits
from efface.evaluation.recognition_controls import (
    collapse_control,
    judge_forgetting,
    measured,
    negative_control,
    no_op_control,
    positive_control,
)
from efface.memory import MemoryRanOut

CLASSES, EACH = 6, 10
NAMES = ("axe", "bus", "cat", "dog", "egg", "fan")
LABELS = torch.arange(CLASSES).repeat_interleave(EACH)
GOING = ForgottenClasses(forgotten=(0,))


def naming(predictions, sure=8.0):
    return sure * torch.nn.functional.one_hot(torch.as_tensor(predictions), CLASSES).double()


def edited(**moved):
    """Predictions that are right but for some classes, by name: (how many, as what)."""
    predictions = LABELS.clone()
    for name, (count, target) in moved.items():
        number = NAMES.index(name)
        predictions[number * EACH : number * EACH + count] = target
    return naming(predictions)


BEFORE = Answers(naming(LABELS), LABELS)
STRANGERS = naming(torch.arange(CLASSES).repeat(5), sure=0.5)  # never sure


def judged(after, before=BEFORE, classes=GOING, strangers=STRANGERS, **rest):
    return judge_forgetting(before, after, classes, names=NAMES, strangers=strangers, **rest)


@pytest.mark.parametrize(
    ("after", "outcome", "reason"),
    [
        (edited(axe=(10, 1)), "erased", ""),
        (edited(axe=(9, 1)), "erased", ""),
        (edited(axe=(6, 1)), "partly erased", "axe: still named in 4 of 10"),
        (edited(axe=(2, 1)), "not erased", "axe: still named in 8 of 10"),
        (edited(axe=(10, 1), bus=(6, 2)), "others lost", "bus: named in 4 of 10 pictures, in 10"),
        (
            edited(axe=(10, 1), bus=(4, 2), cat=(4, 3), dog=(4, 4)),
            "others lost",
            "retained classes: named in 38 of 50 pictures, in 50 before",
        ),
    ],
)
def test_numbers_decide(after, outcome, reason):
    found = judged(after)
    assert (found.verdict, found.reasons) == ("valid", ())
    assert found.outcome.name == outcome
    assert reason in " ".join(found.outcome.reasons)
    assert found.before["forgotten"].hits == 10
    assert found.changes["forgotten"].lost == 10 - found.after["forgotten"].hits


def test_limits_may_be_set():
    assert judged(edited(axe=(9, 1)), limits=Limits(most_present=0.03)).outcome.name != "erased"


def test_earlier_classes_that_come_back_are_no_erasure():
    known = edited(bus=(10, 2))
    classes = ForgottenClasses(forgotten=(0,), earlier=(1,))
    before = Answers(known, LABELS)
    held = judged(edited(axe=(10, 3), bus=(10, 2)), before, classes)
    assert held.outcome.name == "erased"
    back = judged(edited(axe=(10, 3)), before, classes)
    assert back.outcome.name == "partly erased"
    assert "classes of earlier requests: named in 10 of 10" in back.outcome.reasons[0]


def test_one_of_two_classes_left_is_partly_erased():
    classes = ForgottenClasses(forgotten=(0, 1))
    found = judged(edited(axe=(10, 3)), classes=classes)
    assert found.outcome.name == "partly erased"
    assert [one.name for one in found.controls].count("positive") == 2


def test_an_edit_that_changes_nothing_is_not_erased():
    same = judged(BEFORE.logits.clone())
    assert same.outcome.name == "not erased"
    assert "NothingChanged" in same.outcome.reasons[0]
    assert "bit for bit" in same.outcome.reasons[0]
    assert same.verdict == "inconclusive"
    moved = no_op_control(BEFORE, Answers(BEFORE.logits + 0.1, LABELS))
    assert not moved.passed
    assert "though logits moved" in moved.details[0]
    assert no_op_control(BEFORE, Answers(edited(axe=(1, 1)), LABELS)).passed


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (naming(LABELS * 0 + 3), "it names class 3 for 50 of 50 retained pictures, of which 10"),
        (torch.zeros(len(LABELS), CLASSES).double(), "it names class 0"),
        (naming((LABELS + 1) % CLASSES), "it recognises 0 of 50 retained pictures, 50 before"),
    ],
)
def test_wrecks_are_no_erasures(after, reason):
    found = judged(after)
    assert found.outcome.name == "collapsed"
    assert reason in " ".join(found.outcome.reasons)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_invalid_and_collapsed(broken):
    after = edited(axe=(10, 1))
    after[-1, 0] = broken
    found = judged(after)
    assert found.verdict == "invalid"
    assert found.outcome.name == "collapsed"
    assert found.after == found.before == {}
    assert "not finite" in " ".join(found.reasons)


def test_only_forgotten_logits_broken_is_invalid_and_never_zero():
    after = edited()
    after[LABELS == 0] = math.nan
    found = judged(after)
    assert found.verdict == "invalid"
    assert found.outcome.name == "unknown"
    assert found.after == {}
    assert "forgotten: 10 of 10 pictures have logits that are not finite" in found.reasons[0]


def test_a_class_that_was_never_known_says_nothing():
    before = Answers(edited(axe=(6, 1)), LABELS)
    found = judged(edited(axe=(10, 1)), before)
    assert (found.verdict, found.outcome.name) == ("inconclusive", "unknown")
    assert "positive control failed with 4 of 10" in found.reasons[0]
    assert not positive_control(Answers(naming([0]), torch.tensor([0])), 1, "bus").passed
    # One right answer of one is above chance by value and not by its lower bound of 0.207.
    one = Answers(torch.eye(2)[:1], torch.tensor([0]))
    assert not positive_control(one, 0, "axe").passed


def test_seeing_a_class_in_strangers_fails_the_negative_control():
    sure = naming([0] * 4 + [1] * 6)
    found = judged(edited(axe=(10, 1)), strangers=sure)
    assert (found.verdict, found.outcome.name) == ("inconclusive", "unknown")
    assert "negative control failed with 4 of 10" in found.reasons[0]
    assert negative_control(naming([0] * 4 + [1] * 6, sure=0.1), 0, "axe").passed
    # Twice chance (2 of 6) is allowed in a small head.
    assert negative_control(naming([0] * 3 + [1] * 7), 0, "axe").passed


def test_without_strangers_it_is_inconclusive_and_broken_ones_are_invalid():
    found = judged(edited(axe=(10, 1)), strangers=None)
    assert found.verdict == "inconclusive"
    assert "there was no picture" in found.reasons[0]
    assert judged(edited(axe=(10, 1)), strangers=STRANGERS * math.nan).verdict == "invalid"
    assert judged(edited(axe=(10, 1)), strangers=STRANGERS[:0]).verdict == "invalid"


def test_order_of_pictures_does_not_matter():
    order = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(0))
    after = edited(axe=(6, 1), bus=(2, 3))
    turned = Answers(BEFORE.logits[order], LABELS[order])
    assert judged(after[order], turned) == judged(after)


def test_instruments_that_raise_are_failures_in_words():
    def broken():
        raise RuntimeError("no such file")

    def nothing():
        raise MeasurementFailed("none of 3 was scored")

    def full():
        raise MemoryRanOut("out of memory")

    found, failures = measured({"a": lambda: 0.5, "b": broken, "c": nothing})
    assert found == {"a": 0.5}
    assert failures[0] == "b failed: RuntimeError: no such file; nothing is counted"
    assert failures[1] == "c: none of 3 was scored"
    with pytest.raises(MemoryRanOut):
        measured({"d": full})
    result = judged(edited(axe=(10, 1)), failures=failures)
    assert (result.verdict, result.outcome.name, result.after) == ("invalid", "unknown", {})


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadRequest, match="ask both models the same"):
        judged(edited()[1:])
    with pytest.raises(BadRequest, match="no class is retained"):
        judged(edited(), classes=ForgottenClasses(forgotten=tuple(range(6))))
    with pytest.raises(BadRequest, match=r"classes \[7\]"):
        judged(edited(), classes=ForgottenClasses(forgotten=(7,)))


def test_few_retained_classes_that_are_one_are_no_collapse():
    """With one class retained, naming it for all is right."""
    mine = Answers(naming(LABELS[LABELS == 2]), LABELS[LABELS == 2])
    assert collapse_control(mine, mine.logits).passed
