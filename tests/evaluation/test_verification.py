"""Verification and identification on embeddings whose answers are known."""

import math

import pytest
import torch

from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.verification import identification, pairs, verification


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def at(*degrees):
    """Unit vectors at angles."""
    angles = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_pairs_are_each_counted_once():
    """0 and 60 degrees are one identity, 90 another's only picture."""
    found = pairs(at(0, 60, 90), torch.tensor([7, 7, 3]))
    assert found.same.tolist() == pytest.approx([0.5])
    assert found.different.tolist() == pytest.approx([0, math.sqrt(3) / 2])
    assert found.same_identity == (7,)
    assert found.different_identity == (3, 3)


def test_the_area_of_a_case_counted_by_hand():
    """Of one same pair (0.5) against two others (0, 0.87), one is below: AUC 1/2."""
    found = verification(at(0, 60, 90), torch.tensor([0, 0, 1]))
    assert found.auc.value == 0.5
    assert found.at[0.01].true_positives.hits == 0


def test_clusters_are_verified_and_noise_is_not():
    identities = torch.arange(10).repeat_interleave(6)
    centres = torch.randn(10, 32, generator=gen())
    near = centres[identities] + 0.1 * torch.randn(60, 32, generator=gen(1))
    found = verification(near, identities)
    assert found.auc.value == 1
    assert found.auc.low < 1
    assert found.at[0.001].true_positives.value == 1
    noise = verification(torch.randn(60, 32, generator=gen(2)), identities)
    assert noise.auc.low <= 0.5 <= noise.auc.high


def test_verification_knows_neither_lengths_nor_rotation_nor_order():
    identities = torch.arange(6).repeat(5)
    generator = gen(4)
    vectors = torch.randn(30, 8, generator=generator, dtype=torch.float64)
    vectors += 0.8 * torch.eye(8, dtype=torch.float64)[identities]
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    order = torch.randperm(30, generator=generator)
    lengths = torch.rand(30, 1, generator=generator, dtype=torch.float64) + 0.1
    first = verification(vectors, identities, false_positive_rates=(0.1,))
    second = verification(
        (lengths * vectors @ turn)[order], identities[order], false_positive_rates=(0.1,)
    )
    assert second.auc.value == pytest.approx(first.auc.value)
    assert second.at[0.1].true_positives.hits == first.at[0.1].true_positives.hits


def test_identification_by_hand():
    """Known: 0 (0 degrees) and 1 (90). Probes at 10, 50 and 80 degrees; strangers at 200, 40.

    The stranger at 40 degrees has cosine 0.766 with 0. With no false alarms the threshold is the
    lowest own cosine above that: cos 10 = 0.985. The probe of 0 at 50 is nearer to 1.
    """
    gallery = (at(0, 90), torch.tensor([0, 1]))
    probes = (at(10, 50, 80), torch.tensor([0, 0, 1]))
    found = identification(gallery, probes, at(200, 40), false_alarm_rate=0.0)
    assert (found.recognised.hits, found.recognised.count) == (2, 3)
    assert found.false_alarms.hits == 0
    assert found.threshold == pytest.approx(math.cos(math.pi / 18))
    half = identification(gallery, probes, at(200, 40), false_alarm_rate=0.5)
    assert half.false_alarms.hits == 1
    assert half.recognised.hits == 2


def test_a_tie_between_identities_is_not_recognised():
    """45 degrees is as near to 0 as to 90 degrees."""
    gallery = (at(0, 0), torch.tensor([0, 1]))
    found = identification(gallery, (at(0), torch.tensor([0])), at(180), false_alarm_rate=0.0)
    assert found.recognised.hits == 0


def test_identities_are_the_mean_direction_of_their_pictures():
    """60 and 120 degrees, of any lengths, are an identity at 90."""
    gallery = (at(60, 120, 0) * torch.tensor([[1.0], [5], [1]]), torch.tensor([4, 4, 9]))
    found = identification(gallery, (at(90), torch.tensor([4])), at(270), false_alarm_rate=0.0)
    assert found.threshold == pytest.approx(1)
    assert found.recognised.hits == 1


def test_embeddings_without_direction_are_refused():
    with pytest.raises(MeasurementFailed, match="1 of 2 embeddings are zero or not finite"):
        pairs(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 0]))
    with pytest.raises(MeasurementFailed, match="1 of 2 embeddings"):
        pairs(torch.tensor([[math.nan, 0.0], [1.0, 0.0]]), torch.tensor([0, 0]))
    with pytest.raises(MeasurementFailed, match="0 pairs of the same and 1 of different"):
        pairs(at(0, 1), torch.tensor([0, 1]))
    with pytest.raises(MeasurementFailed, match="no embeddings"):
        pairs(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(BadRequest, match="do not fit"):
        pairs(at(0, 1), torch.tensor([0]))
    gallery = (at(0), torch.tensor([0]))
    with pytest.raises(BadRequest, match=r"identities \[3\] are asked for"):
        identification(gallery, (at(0), torch.tensor([3])), at(180))
