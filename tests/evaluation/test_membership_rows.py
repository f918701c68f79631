"""What forgotten training pictures give away, beside an evaluation's other rows."""

import pytest
import torch

from efface.evaluation.answers import Answers
from efface.evaluation.membership_rows import MOST, TrainedOn, membership_rows, trained_on
from efface.evaluation.recognition import evaluate_recogniser, picture_suite
from tests.evaluation.test_recognition import GONE, zeroed_bias
from tests.pictures import knowing, stripes

NAMES = ("cat", "dog", "bird")


def logits(labels, sureness):
    """Logits that are so sure of the true class, a little differently for each picture."""
    made = torch.zeros(len(labels), len(NAMES))
    made[torch.arange(len(labels)), labels] = sureness
    return made + 0.01 * torch.arange(len(labels))[:, None] * torch.eye(len(NAMES))[labels]


def test_an_edit_that_blurs_members_and_others_alike_ends_at_a_half():
    forgotten, retained = torch.zeros(20).long(), torch.ones(40).long()
    labels = TrainedOn(forgotten, retained)
    before = TrainedOn(logits(forgotten, 6.0), logits(retained, 6.0))
    after = TrainedOn(logits(forgotten, -6.0), logits(retained, 6.0))
    outside_before = TrainedOn(
        Answers(logits(forgotten, 1.0), forgotten), Answers(logits(retained, 1.0), retained)
    )
    outside_after = TrainedOn(Answers(after.forgotten, forgotten), outside_before.retained)
    called, area = membership_rows(labels, (before, after), (outside_before, outside_after))
    assert (called.metric, called.before.hits, called.after.hits) == ("called_member", 20, 0)
    assert (area.metric, area.before.value, area.after.value) == ("membership", 1.0, 0.5)
    assert {called.role, area.role} == {"erased"}


def test_too_few_pictures_say_nothing():
    few = torch.zeros(3).long()
    many = torch.ones(9).long()
    seen = TrainedOn(logits(few, 1.0), logits(many, 1.0))
    outside = TrainedOn(Answers(logits(few, 1.0), few), Answers(logits(many, 1.0), many))
    rows = membership_rows(TrainedOn(few, many), (seen, seen), (outside, outside))
    assert not list(rows)
    assert trained_on(stripes(range(6), each=3), (2,)) is None


def test_pictures_of_earlier_requests_are_on_neither_side():
    found = trained_on(stripes(range(6), each=120), (2,), (0,))
    assert set(found.forgotten.labels.tolist()) == {2}
    assert set(found.retained.labels.tolist()) == {1, 3, 4, 5}
    assert (len(found.forgotten), len(found.retained)) == (120, 480)
    assert len(trained_on(stripes(range(6), each=160), (2,)).retained) == MOST
    again = trained_on(stripes(range(6), each=160), (2,))
    assert (
        again.retained.which.tolist()
        == trained_on(stripes(range(6), each=160), (2,)).retained.which.tolist()
    )


@pytest.mark.thorough
@pytest.mark.parametrize("known", [True, False])
def test_an_evaluation_has_the_rows_where_training_pictures_are_known(known, tmp_path):
    model = knowing()
    trained = stripes(model.labels) if known else None
    suite = picture_suite("stripes", stripes(model.labels, seed=1), erased=[GONE], trained=trained)
    found = evaluate_recogniser(model, zeroed_bias(model), suite, store=tmp_path)
    assert found.verdict == "valid"
    rows = [found.find(name, "erased") for name in ("called_member", "membership")]
    if not known:
        assert rows == [None, None]
        return
    called, area = rows
    assert called.before.hits > called.after.hits == 0
    assert called.after.count == 8
    assert 0 <= area.after.value <= 1
    assert area.before.count == 16
