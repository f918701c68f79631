"""Accuracies by role, H, margins and the shape of a delta, against numbers worked out by hand."""

import math

import pytest
import torch

from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch, LowRankPatch
from efface.deltas.provenance import Provenance
from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.answers import Answers
from efface.evaluation.forgetting_scores import (
    ForgottenClasses,
    accuracy,
    accuracy_by_role,
    accuracy_change,
    by_class,
    drop,
    h_mean,
    margin_accuracy,
    tunable_ratio,
    zero_group_ratio,
)

NOTHING = Provenance(
    method="test",
    revision=1,
    settings={},
    request={},
    seed=0,
    base_model="toy",
    base_sketch={},
    versions={},
)


def naming(predictions, labels, classes=4):
    """Answers that name the given classes."""
    logits = torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()
    return Answers(logits, torch.tensor(labels))


def test_roles_are_counted_with_their_hits():
    """Class 0 goes, 1 went before, 2 has no pictures in training and is retained with 3."""
    given = naming([0, 3, 1, 1, 1, 2, 0, 3, 3], [0, 0, 1, 1, 1, 2, 2, 3, 3])
    roles = by_class(given, ForgottenClasses(forgotten=(0,), earlier=(1,), missing=(2,)))
    found = accuracy_by_role(roles)
    counts = {role: (one.hits, one.count) for role, one in found.items()}
    assert counts == {"forgotten": (1, 2), "earlier": (3, 3), "retained": (3, 4), "missing": (1, 2)}
    assert all(one.low <= one.value <= one.high for one in found.values())


def test_accuracy_does_not_depend_on_the_order_of_pictures_or_classes():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 6, generator=generator)
    labels = torch.randint(6, (50,), generator=generator)
    order = torch.randperm(50, generator=generator)
    classes = torch.randperm(6, generator=generator)
    first = accuracy(Answers(logits, labels))
    assert accuracy(Answers(logits[order], labels[order])) == first
    assert accuracy(Answers(logits[:, classes], classes.argsort()[labels])) == first


def test_margins_are_log_odds_and_stay_finite_where_probabilities_round():
    given = Answers(
        torch.tensor([[0.0, math.log(3), 0.0], [500.0, 0.0, 0.0]]), torch.tensor([1, 0])
    )
    # p = 3 / 5, so the odds are 1.5; the other is 500 - log 2.
    assert given.margins.tolist() == pytest.approx([math.log(1.5), 500 - math.log(2)])


@pytest.mark.parametrize(
    ("fallen", "retained", "wanted"),
    [(72.74, 70.81, 71.76), (74.65, 74.16, 74.40), (87.30, 85.98, 86.63)],
)
def test_h_is_that_of_the_published_tables(fallen, retained, wanted):
    assert h_mean(fallen, retained) == pytest.approx(wanted, abs=0.006)
    assert h_mean(retained, fallen) == h_mean(fallen, retained)


def test_h_of_nothing_forgotten_is_zero_and_of_no_number_is_refused():
    assert h_mean(0.0, 0.9) == h_mean(-0.1, 0.9) == h_mean(0.9, 0.0) == 0
    assert drop(0.9, 0.2) == pytest.approx(0.7)
    with pytest.raises(MeasurementFailed, match="give no H"):
        h_mean(math.nan, 0.9)
    with pytest.raises(MeasurementFailed, match="give no drop"):
        drop(0.9, math.nan)
    with pytest.raises(BadRequest, match="cannot be negative"):
        h_mean(0.9, -0.1)


def test_the_margin_is_taken_off_the_true_class_only():
    """With s = 10 and m = 0.35 a lead of 0.4 holds and one of 0.3 does not."""
    cosines = torch.tensor([[0.8, 0.4], [0.7, 0.4], [0.1, 0.9]])
    given = Answers(10 * cosines, torch.tensor([0, 0, 0]))
    found = margin_accuracy(given, scale=10, margin=0.35)
    assert (found.free.hits, found.with_margin.hits) == (2, 1)
    none = margin_accuracy(given, scale=10, margin=0.0)
    assert none.free == none.with_margin
    with pytest.raises(BadRequest, match="scale 0"):
        margin_accuracy(given, scale=0, margin=0.1)


def test_change_is_paired_and_refuses_other_pictures():
    before = naming([0, 0, 1, 1], [0, 0, 1, 1])
    after = naming([1, 1, 1, 0], [0, 0, 1, 1])
    found = accuracy_change(before, after)
    assert (found.gained, found.lost, found.difference.value) == (0, 3, -0.75)
    with pytest.raises(BadRequest, match="same labels"):
        accuracy_change(before, naming([0], [0]))


def test_what_has_no_meaning_is_refused():
    with pytest.raises(MeasurementFailed, match="no picture"):
        Answers(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(MeasurementFailed, match="1 of 2 pictures have logits that are not finite"):
        Answers(torch.tensor([[0.0, math.nan], [0.0, 1.0]]), torch.tensor([0, 1]))
    with pytest.raises(BadRequest, match="labels run from 0 to 2"):
        Answers(torch.zeros(2, 2), torch.tensor([0, 2]))
    with pytest.raises(BadRequest, match="do not fit"):
        Answers(torch.zeros(2, 2), torch.tensor([0]))
    with pytest.raises(BadRequest, match="one class"):
        Answers(torch.zeros(2, 1), torch.tensor([0, 0]))
    with pytest.raises(MeasurementFailed, match="no role"):
        accuracy_by_role({})
    with pytest.raises(BadRequest, match="at least one"):
        ForgottenClasses(forgotten=())
    with pytest.raises(BadRequest, match=r"classes \[1\] are named twice"):
        ForgottenClasses(forgotten=(1,), earlier=(1,))
    given = naming([0, 1], [0, 1])
    with pytest.raises(BadRequest, match=r"classes \[9\] are not in a head of 4"):
        by_class(given, ForgottenClasses(forgotten=(9,)))
    with pytest.raises(MeasurementFailed, match="no picture shows a class of the role 'forgotten'"):
        by_class(given, ForgottenClasses(forgotten=(3,)))


def test_groups_of_a_delta_are_zero_where_it_changes_nothing():
    """Of three groups the first is changed, the second has B = 0, the third is left out."""
    delta = Delta(
        patches={
            "model/a": LowRankPatch(up=torch.ones(3, 2), down=torch.ones(2, 4)),
            "model/b": LowRankPatch(up=torch.zeros(3, 2), down=torch.ones(2, 4)),
            "model/c": DensePatch(difference=torch.zeros(5)),
        },
        provenance=NOTHING,
    )
    groups = {"0": ["model/a"], "1": ["model/b", "model/c"], "2": ["model/d"]}
    assert zero_group_ratio(delta, groups) == pytest.approx(2 / 3)
    assert tunable_ratio(delta, 330) == pytest.approx((14 + 14 + 5) / 330)
    with pytest.raises(BadRequest, match="in no group"):
        zero_group_ratio(delta, {"0": ["model/a"]})
    with pytest.raises(BadRequest, match="no groups"):
        zero_group_ratio(delta, {})
    with pytest.raises(BadRequest, match="0 parameters"):
        tunable_ratio(delta, 0)
