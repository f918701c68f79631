"""Membership inference: by hand, against direct formulas, and where nothing can be told."""

import math
import sys

import pytest
import torch

from efface.errors import BadRequest, MeasurementFailed, MissingInput
from efface.evaluation.answers import Answers
from efface.evaluation.membership import (
    likelihood_ratios,
    modified_entropy,
    svc_attack,
    threshold_attack,
    true_confidence,
    u_lira,
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def answering(margins):
    """Answers of two classes with the given margins for class 0."""
    margins = torch.as_tensor(margins, dtype=torch.float64)
    return Answers(
        torch.stack([margins, torch.zeros_like(margins)], dim=1),
        torch.zeros(len(margins), dtype=torch.int64),
    )


def normal(n, shift=0.0, seed=0):
    return torch.randn(n, generator=gen(seed), dtype=torch.float64) + shift


def test_confidence_and_modified_entropy_are_their_definitions():
    logits = torch.randn(20, 5, generator=gen(), dtype=torch.float64)
    labels = torch.randint(5, (20,), generator=gen(1))
    given = Answers(logits, labels)
    p = logits.softmax(dim=1)
    mine = torch.nn.functional.one_hot(labels, 5).bool()
    assert torch.allclose(true_confidence(given), p[mine])
    terms = torch.where(mine, -(1 - p) * p.log(), -p * (1 - p).log())
    assert torch.allclose(modified_entropy(given), terms.sum(dim=1))


def test_modified_entropy_of_even_odds_and_of_certainty():
    """Two classes at 1/2: -1/2 log 1/2 twice is log 2. Certain and right: 0, not NaN."""
    found = modified_entropy(answering([0.0, 800.0]))
    assert found.tolist() == pytest.approx([math.log(2), 0.0])
    wrong = modified_entropy(answering([-800.0]))
    assert wrong.item() == pytest.approx(1600)  # -1 * -800, for either class


def test_members_that_stand_apart_are_told():
    found = threshold_attack(
        answering(normal(200, 9)),
        answering(normal(300, 0, 1)),
        answering(normal(100, 0, 2)),
        generator=gen(),
    )
    assert found.calibration.hits == found.calibration.count == 200
    assert found.auc.value == 1
    assert found.at_low_false_positives.true_positives.value == 1
    assert found.called_member.hits == 0
    assert abs(found.forgotten_auc.value - 0.5) < 0.1


@pytest.mark.parametrize("signal", ["confidence", "modified_entropy"])
def test_what_is_alike_cannot_be_told(signal):
    found = threshold_attack(
        answering(normal(2000)),
        answering(normal(2000, 0, 1)),
        answering(normal(500, 3, 2)),
        generator=gen(),
        signal=signal,
    )
    assert found.calibration.low <= 0.5 <= found.calibration.high
    assert found.auc.low <= 0.5 <= found.auc.high
    assert found.forgotten_auc.value > 0.95  # surer than anybody: seen in the area


def test_the_draw_does_not_depend_on_the_pictures_order():
    members, outsiders = normal(60, 1), normal(40, 0, 1)
    forgotten = answering(normal(20, 0, 2))
    order = torch.randperm(60, generator=gen(9))
    first = threshold_attack(answering(members), answering(outsiders), forgotten, generator=gen(5))
    second = threshold_attack(
        answering(members[order]), answering(outsiders.flip(0)), forgotten, generator=gen(5)
    )
    assert first == second


def test_constant_confidence_calls_all_the_same():
    same = answering([1.0] * 20)
    found = threshold_attack(same, same, same, generator=gen())
    assert found.calibration.value == 0.5
    assert found.auc.value == found.forgotten_auc.value == 0.5
    assert found.called_member.value == 1
    assert found.at_low_false_positives.true_positives.value == 0


def test_attacks_refuse_what_says_nothing():
    few = answering([0.0, 1, 2])
    with pytest.raises(MeasurementFailed, match="3 members and 3 non-members"):
        threshold_attack(few, few, few, generator=gen())
    many = answering(normal(8))
    with pytest.raises(BadRequest, match="'entropy' is not a signal"):
        threshold_attack(many, many, many, generator=gen(), signal="entropy")
    with pytest.raises(MeasurementFailed, match="2 models give no distribution"):
        u_lira(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(MeasurementFailed, match="very same margins"):
        u_lira(torch.zeros(3, 4), torch.zeros(3, 4))
    with pytest.raises(BadRequest, match=r"give \(models, 4 pictures\)"):
        u_lira(torch.zeros(3, 4), torch.zeros(3, 5))
    with pytest.raises(MeasurementFailed, match="not finite"):
        u_lira(torch.full((3, 4), math.nan), torch.zeros(3, 4))


def test_the_likelihood_ratio_is_that_of_two_normals():
    """One picture, margins 1 and 3 inside, -1 and 1 outside, 2 seen: both variances 2 * 3/2."""
    inside, outside = torch.tensor([[1.0], [3.0]]), torch.tensor([[-1.0], [1.0]])
    found = likelihood_ratios(torch.tensor([2.0]), inside, outside)
    assert found.item() == pytest.approx(0.5 * 4 / 3)
    assert likelihood_ratios(torch.tensor([1.0]), inside, outside).item() == pytest.approx(0)
    back = likelihood_ratios(torch.tensor([2.0]), outside, inside)
    assert back.item() == pytest.approx(-0.5 * 4 / 3)


def test_u_lira_tells_ensembles_that_differ_and_no_others():
    """A picture's own level hides the shift from one threshold, not from its own normals."""
    level = 10 * torch.randn(1, 100, generator=gen(), dtype=torch.float64)

    def ensemble(seed, shift):
        noise = torch.randn(6, 100, generator=gen(seed), dtype=torch.float64)
        return level + shift + noise

    apart = u_lira(ensemble(1, 4.0), ensemble(2, 0.0))
    assert apart.accuracy.value > 0.95
    assert apart.auc.value > 0.99
    assert apart.true_positives.value > 0.9
    assert apart.false_positives.value <= 0.01
    alike = u_lira(ensemble(3, 0.0), ensemble(4, 0.0))
    assert alike.auc.low <= 0.5 <= alike.auc.high
    assert alike.true_positives.value < 0.1


@pytest.mark.thorough
def test_u_lira_is_at_chance_on_average_for_equal_ensembles():
    """Twenty pairs of ensembles; the mean is within three standard errors of a half."""
    areas, right = [], []
    for seed in range(20):
        both = torch.randn(2, 5, 60, generator=gen(seed), dtype=torch.float64)
        found = u_lira(both[0], both[1])
        areas.append(found.auc.value)
        right.append(found.accuracy.value)
    for centre in (torch.tensor(areas), torch.tensor(right)):
        assert abs(centre.mean() - 0.5) < 3 * centre.std() / 20**0.5


def test_the_papers_classifier_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    some = answering(normal(8))
    with pytest.raises(MissingInput, match=r"pip install 'efface\[membership\]'"):
        svc_attack(some, some, some, generator=gen())


def test_the_papers_classifier_agrees_where_it_is_installed():
    pytest.importorskip("sklearn.svm")
    found = svc_attack(
        answering(normal(200, 6)),
        answering(normal(200, 0, 1)),
        answering(normal(100, 0, 2)),
        generator=gen(),
    )
    assert found.value > 0.95
    same = answering([1.0] * 20)
    assert svc_attack(same, same, same, generator=gen()).value in (0.0, 1.0)
