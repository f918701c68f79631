"""Linear probes against a direct ridge solve, and curves of relearning by hand."""

import math

import pytest
import torch

from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation import probing
from efface.evaluation.probing import compare_probes, linear_probe, relearning, share_left


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


LABELS = torch.arange(4).repeat_interleave(15)


def features(strength, seed=0, dim=12):
    noise = torch.randn(60, dim, generator=gen(seed), dtype=torch.float64)
    return noise + strength * torch.eye(4, dim, dtype=torch.float64)[LABELS]


def test_what_is_linearly_there_is_read_and_noise_is_not():
    there = linear_probe(features(8), LABELS, generator=gen())
    assert there.accuracy.hits == there.accuracy.count == 60
    assert there.chance == 0.25
    noise = linear_probe(features(0), LABELS, generator=gen())
    assert noise.accuracy.low <= 0.25 <= noise.accuracy.high
    assert share_left(there, there) == 1
    assert abs(share_left(there, noise)) < 0.25
    assert compare_probes(there, noise).gained == 0
    with pytest.raises(MeasurementFailed, match="not surely above chance"):
        share_left(noise, there)


def test_equal_inputs_give_equal_probes_whatever_their_scale_and_constant_columns():
    given = features(2)
    first = linear_probe(given, LABELS, generator=gen(3))
    assert linear_probe(given, LABELS, generator=gen(3)) == first
    scaled = 1000 * given + 5
    assert linear_probe(scaled, LABELS, generator=gen(3)).hits == first.hits
    constant = torch.cat([given, torch.full((60, 3), 7.0).double()], dim=1)
    assert linear_probe(constant, LABELS, generator=gen(3)).hits == first.hits


def test_answers_are_those_of_a_direct_solve(monkeypatch):
    """With one ridge on offer: standardise, centre, solve (X'X + r I) w = X'Y."""
    monkeypatch.setattr(probing, "STRENGTHS", (0.1,))
    inputs = features(1)
    train, test = inputs[::2], inputs[1::2]
    found = probing._fitted(train, LABELS[::2], 4, test)
    spread, centre = train.std(dim=0), train.mean(dim=0)
    x, asked = (train - centre) / spread, (test - centre) / spread
    y = torch.eye(4, dtype=torch.float64)[LABELS[::2]]
    gram = x.T @ x
    ridge = 0.1 * float(torch.linalg.eigvalsh(gram).mean())
    weights = torch.linalg.solve(
        gram + ridge * torch.eye(12, dtype=torch.float64), x.T @ (y - y.mean(dim=0))
    )
    assert torch.allclose(found, asked @ weights + y.mean(dim=0), atol=1e-10)


def test_only_some_classes_are_counted():
    """Class 3 is moved onto class 0, so that only these two are confused."""
    hidden = features(8)
    hidden[LABELS == 3] = features(8, seed=5)[LABELS == 0]
    found = linear_probe(hidden, LABELS, generator=gen(), of=[3])
    assert found.accuracy.count == 15
    assert found.chance == 1.0
    assert found.accuracy.value < 0.8
    assert linear_probe(hidden, LABELS, generator=gen(), of=[1, 2]).accuracy.value == 1


def test_probes_refuse_what_cannot_be_told_apart():
    with pytest.raises(BadRequest, match="do not fit"):
        linear_probe(features(1), LABELS[1:], generator=gen())
    with pytest.raises(BadRequest, match="1 folds"):
        linear_probe(features(1), LABELS, generator=gen(), folds=1)
    with pytest.raises(MeasurementFailed, match="class 0 has 15 pictures for 16 folds"):
        linear_probe(features(1), LABELS, generator=gen(), folds=16)
    with pytest.raises(MeasurementFailed, match="1 classes"):
        linear_probe(features(1), LABELS * 0, generator=gen())
    with pytest.raises(MeasurementFailed, match="not finite"):
        linear_probe(features(math.nan), LABELS, generator=gen())
    with pytest.raises(MeasurementFailed, match=r"no picture shows a class of \[9\]"):
        linear_probe(features(1), LABELS, generator=gen(), of=[9])
    whole = linear_probe(features(1), LABELS, generator=gen())
    part = linear_probe(features(1), LABELS, generator=gen(), of=[1])
    with pytest.raises(BadRequest, match="same pictures"):
        compare_probes(whole, part)


def test_half_is_back_where_the_curve_says():
    """From 0.1 to 0.9 half is 0.5, first reached at step 20 of those looked at."""
    found = relearning([0, 5, 20, 50], [0.1, 0.3, 0.5, 0.85], before=0.9)
    assert (found.steps, found.after, found.until) == (20, 5, 50)
    assert found.target == pytest.approx(0.5)
    most = relearning([0, 5, 20, 50], [0.1, 0.3, 0.5, 0.85], before=0.9, share=0.9)
    assert most.steps == 50
    never = relearning([0, 5], [0.0, 0.2], before=0.9)
    assert (never.steps, never.after, never.at_end) == (None, 5, 0.2)


def test_curves_that_are_none_are_refused():
    with pytest.raises(BadRequest, match="give no curve"):
        relearning([0], [0.1], before=0.9)
    with pytest.raises(BadRequest, match="must rise from 0"):
        relearning([1, 2], [0.1, 0.2], before=0.9)
    with pytest.raises(BadRequest, match="must rise from 0"):
        relearning([0, 2, 2], [0.1, 0.2, 0.3], before=0.9)
    with pytest.raises(BadRequest, match="share is 0"):
        relearning([0, 2], [0.1, 0.2], before=0.9, share=0)
    with pytest.raises(MeasurementFailed, match="not finite"):
        relearning([0, 2], [0.1, math.nan], before=0.9)
    with pytest.raises(MeasurementFailed, match="nothing was lost"):
        relearning([0, 2], [0.9, 0.9], before=0.9)
