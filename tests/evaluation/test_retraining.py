"""The gap to retraining and KLoM against closed forms, and what identical models give."""

import math

import pytest
import torch

from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.answers import Answers
from efface.evaluation.retraining import agreement, gaps, klom, klom_histogram, mean_klom


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(models, n, shift=0.0, scale=1.0, seed=0):
    return shift + scale * torch.randn(models, n, generator=gen(seed), dtype=torch.float64)


def test_retraining_has_no_gap_to_itself():
    values = {"forgotten": [0.1, 0.2, 0.3], "test": [0.9, 0.8, 0.85]}
    found = gaps(values, values, generator=gen())
    assert found.average.value == 0
    assert all(one.difference.value == one.size.value == 0 for one in found.by_metric.values())
    one = found.by_metric["forgotten"].difference
    assert one.low < 0 < one.high


def test_the_average_is_that_of_the_sizes():
    """Differences -0.2 and +0.1 in the mean: sizes 0.2 and 0.1, average 0.15."""
    found = gaps(
        {"forgotten": [0.1, 0.3], "test": [0.9, 0.9]},
        {"forgotten": [0.4, 0.4], "test": [0.8, 0.8]},
        generator=gen(),
    )
    assert found.by_metric["forgotten"].difference.value == pytest.approx(-0.2)
    assert found.by_metric["test"].size.value == pytest.approx(0.1)
    assert found.average.value == pytest.approx(0.15)
    # Means of two draws of 0.1 and 0.3 lie between 0.1 and 0.3, so sizes between 0.3 and 0.1.
    assert found.by_metric["forgotten"].size.low == pytest.approx(0.1)
    assert found.by_metric["forgotten"].size.high == pytest.approx(0.3)
    assert found.by_metric["test"].size.low == pytest.approx(0.1)


def test_one_seed_has_no_interval():
    found = gaps({"test": [0.9]}, {"test": [0.8, 0.7]}, generator=gen())
    assert found.average.value == pytest.approx(0.15)
    assert math.isnan(found.average.low)
    assert found.average.count == 3


def test_gaps_refuse_what_cannot_be_compared():
    with pytest.raises(BadRequest, match="must be the same"):
        gaps({"a": [1.0]}, {"b": [1.0]}, generator=gen())
    with pytest.raises(BadRequest, match="must be the same"):
        gaps({}, {}, generator=gen())
    with pytest.raises(BadRequest, match=r"\[1, 2\] seeds"):
        gaps({"a": [1.0], "b": [1.0, 2.0]}, {"a": [1.0], "b": [1.0]}, generator=gen())
    with pytest.raises(MeasurementFailed, match="1 of 1 values of a are not finite"):
        gaps({"a": [math.nan]}, {"a": [1.0]}, generator=gen())


def test_klom_is_that_of_two_normals():
    """Retrained -1, 1 (mean 0, variance 2); unlearned 1, 5 (mean 3, variance 8).

    KL = (log(8/2) + (2 + 9) / 8 - 1) / 2.
    """
    retrained, unlearned = torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0], [5.0]])
    wanted = 0.5 * (math.log(4) + 11 / 8 - 1)
    assert klom(unlearned, retrained).item() == pytest.approx(wanted)


@pytest.mark.parametrize("measure", [klom, klom_histogram])
def test_klom_is_zero_for_the_same_and_grows_with_the_distance(measure):
    same = normal(50, 20)
    assert measure(same, same).abs().max() < 1e-12
    near = mean_klom(measure(normal(50, 20, 0.5, seed=1), same))
    far = mean_klom(measure(normal(50, 20, 3, seed=1), same))
    assert 0 < near.value < far.value
    order = torch.randperm(50, generator=gen(2))
    assert torch.allclose(measure(same[order], same + 1), measure(same, same + 1))
    assert torch.allclose(measure(5 * same + 2, 5 * same + 3), measure(same, same + 0.2))


def test_the_normal_form_comes_near_the_true_divergence():
    """N(0, 1) from N(1, 1) is 1/2; 400 models."""
    found = mean_klom(klom(normal(400, 200, 1, seed=1), normal(400, 200)))
    assert found.value == pytest.approx(0.5, abs=0.03)


def test_margins_far_out_are_cut():
    one = torch.tensor([[1e6], [-1e6]])
    assert torch.isfinite(klom_histogram(one, -one)).all()
    assert klom_histogram(one, -one).item() == pytest.approx(0, abs=1e-12)


def test_klom_needs_ensembles_that_vary():
    with pytest.raises(MeasurementFailed, match="1 unlearned and 3 retrained"):
        klom(torch.zeros(1, 4), torch.zeros(3, 4))
    with pytest.raises(MeasurementFailed, match="very same margins"):
        klom(torch.zeros(3, 4), torch.zeros(3, 4))
    with pytest.raises(BadRequest, match="same pictures"):
        klom(torch.zeros(3, 4), torch.zeros(3, 5))
    with pytest.raises(MeasurementFailed, match="not finite"):
        klom(torch.full((3, 4), math.inf), torch.zeros(3, 4))


def test_agreement_counts_equal_predictions():
    labels = torch.tensor([0, 1, 2])
    first = Answers(torch.eye(3), labels)
    second = Answers(torch.eye(3)[[0, 2, 2]], labels)
    assert agreement(first, first).hits == 3
    assert agreement(first, second).hits == agreement(second, first).hits == 2
    with pytest.raises(BadRequest, match="not about the same pictures"):
        agreement(first, Answers(torch.eye(3), labels.flip(0)))
