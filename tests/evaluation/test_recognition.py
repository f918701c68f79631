"""Verdict and outcome of forgetting in recognisers: no wreck and no idle edit passes."""

import pytest
import torch

from efface.errors import MissingInput
from efface.evaluation.answers import Answers
from efface.evaluation.recognition import evaluate_recogniser, picture_suite
from efface.evaluation.recognition_controls import collapse_control
from efface.evaluation.record import Evaluation
from efface.reports import write_report
from tests.pictures import CLASSES, delta_of, knowing, stripes

HEAD = "model/classifier.weight"
GONE = 2


def head_change(model, make):
    """Changes the rows of the head."""
    weight = model.model.classifier.weight.detach()
    return delta_of(model, {HEAD: make(weight.clone()) - weight}, model.labels[GONE])


def without_class(weight):
    weight[GONE] = -10 * weight.abs().max() * torch.ones_like(weight[GONE])
    return weight


def evaluated(model, delta, folder, *, strangers=True, **more):
    pictures = stripes(model.labels, seed=1)
    unknown = stripes(model.labels, seed=2)
    unknown.pixels.copy_(torch.rand(unknown.pixels.shape, generator=torch.Generator()))
    suite = picture_suite(
        "stripes", pictures, erased=[GONE], strangers=unknown if strangers else None, **more
    )
    return evaluate_recogniser(model, delta, suite, store=folder)


@pytest.fixture(scope="module")
def model():
    return knowing()


def zeroed_bias(model):
    """Moves a class out of reach by the head's bias."""
    change = torch.zeros(CLASSES)
    change[GONE] = -1e3
    return delta_of(model, {"model/classifier.bias": change}, model.labels[GONE])


@pytest.mark.thorough
def test_a_class_that_is_gone_is_erased_and_reported(model, tmp_path):
    found = evaluated(model, zeroed_bias(model), tmp_path / "pictures", strangers=False)
    assert (found.verdict, found.outcome.name) == ("valid", "erased")
    assert found.find("recognised", "erased").after.hits == 0
    assert found.find("recognised", "kept").after.hits == 40
    (first, *_) = [one for one in found.sightings if one.after]
    assert first.concept == model.labels[GONE] != first.name
    found.save(tmp_path)
    assert Evaluation.load(tmp_path).outcome == found.outcome
    write_report(tmp_path, found)
    page, card = ((tmp_path / name).read_text() for name in ("report.html", "card.md"))
    assert "The model recognises" in page
    assert "image-classification" in card
    assert "A change to an image classifier that suppresses" in card


def test_earlier_and_missing_classes_have_rows_of_their_own(model, tmp_path):
    found = evaluated(
        model, zeroed_bias(model), tmp_path, strangers=False, earlier=[0], missing=[1]
    )
    assert found.find("recognised", "earlier").after.value > 0.9
    assert found.outcome.name == "partly erased"
    assert found.find("recognised", "missing").after.count == 8
    assert found.find("recognised", "kept").after.count == 24


def test_an_edit_that_changes_no_answer_is_not_erased(model, tmp_path):
    change = {"model/classifier.bias": torch.full((CLASSES,), 1e-3)}
    idle = delta_of(model, change, model.labels[GONE])
    found = evaluated(model, idle, tmp_path, strangers=False)
    assert found.outcome.name == "not erased"
    assert "NothingChanged" in found.outcome.reasons[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda weight: torch.zeros_like(weight),
        lambda weight: -weight,
        lambda weight: torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["zeroed", "turned around", "noise"],
)
def test_a_wreck_is_no_erasure(model, tmp_path, make):
    found = evaluated(model, head_change(model, make), tmp_path, strangers=False)
    assert found.outcome.name == "collapsed"
    assert found.verdict == "inconclusive"


def test_answers_that_are_not_finite_are_invalid_and_never_zero(model, tmp_path):
    broken = head_change(model, lambda weight: torch.full_like(weight, 1e38))
    found = evaluated(model, broken, tmp_path, strangers=False)
    assert found.verdict == "invalid"
    assert found.measurements == ()
    assert found.outcome.name in ("collapsed", "unknown")


def test_a_class_that_was_never_known_says_nothing(tmp_path):
    unknown = type(knowing())(**vars(knowing()))
    pictures = stripes(unknown.labels, seed=1)
    pictures.pixels.copy_(torch.rand(pictures.pixels.shape, generator=torch.Generator()))
    suite = picture_suite("noise", pictures, erased=[GONE])
    found = evaluate_recogniser(unknown, zeroed_bias(unknown), suite, store=tmp_path)
    assert found.verdict == "inconclusive"
    assert found.outcome.name in ("unknown", "collapsed")


def test_no_held_out_picture_of_the_class_is_refused(model):
    pictures = stripes(model.labels)
    from efface.data.pictures import without_classes

    with pytest.raises(MissingInput, match=f"show no {model.labels[GONE]}"):
        picture_suite("some", without_classes(pictures, [GONE]), erased=[GONE])
    with pytest.raises(MissingInput, match="nothing that is kept"):
        picture_suite("all", pictures, erased=list(range(CLASSES)))


def test_one_name_for_everything_is_a_wreck_though_it_is_often_right():
    """Nine of twenty retained pictures show class 0, which is above half of the 16 known before."""
    labels = torch.tensor([0] * 9 + [1] * 11)
    before = Answers(torch.eye(2)[torch.tensor([0] * 9 + [1] * 7 + [0] * 4)], labels)
    found = collapse_control(before, torch.eye(2)[torch.zeros(20, dtype=torch.long)])
    assert not found.passed
    assert "names class 0 for 20 of 20" in found.details[0]
