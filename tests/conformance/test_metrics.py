"""What every metric must do for its numbers to mean what its name, unit and direction say."""

import math
from dataclasses import replace

import pytest
import torch

from efface import registry
from efface.concepts import Concept
from efface.contracts import Sample
from efface.errors import MeasurementFailed
from efface.metrics.estimates import mean, unscored
from tests.cases import METRIC_CASES
from tests.cases.metrics import INSTRUMENTS

CAT, INK = Concept(name="cat"), Concept(name="ink", kind="style")
SAMPLES = [Sample("a cat in ink", seed, "erased", CAT, INK) for seed in range(6)]
NOTHING = Sample("", 0, "general")
"""A sample without a prompt, a concept or a style."""


@pytest.fixture(params=METRIC_CASES, ids=lambda case: case.metric)
def case(request):
    return request.param


@pytest.fixture
def metric(case):
    return made(case)


def made(case):
    found = registry.load("metrics", case.metric)
    return found(INSTRUMENTS[found.uses])


def of_kind(verb):
    """Parametrises over the metrics that score pictures, or that compare sets."""
    chosen = [c for c in METRIC_CASES if hasattr(registry.load("metrics", c.metric), verb)]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.metric)


def pictures(seed=0, *, count=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 16, 20, generator=generator)


def test_every_metric_has_a_case_and_every_case_a_metric():
    assert {case.metric for case in METRIC_CASES} == {e.name for e in registry.entries("metrics")}


def test_a_metric_states_its_facts(case, metric):
    assert metric.name == case.metric
    assert metric.unit
    assert metric.better in ("higher", "lower")
    assert metric.uses in INSTRUMENTS
    assert hasattr(metric, "scores") != hasattr(metric, "distance")


@of_kind("scores")
def test_scores_are_one_per_picture_and_each_its_own(metric):
    shown = pictures()
    before = shown.clone()
    together = metric.scores(shown, SAMPLES)
    assert together.shape == (6,)
    assert bool(together.isfinite().all())
    alone = [metric.scores(shown[[n]], [SAMPLES[n]]) for n in range(6)]
    assert torch.allclose(torch.cat(alone), together, atol=1e-5)
    assert torch.equal(metric.scores(shown, SAMPLES), together)
    assert torch.equal(shown, before)


@of_kind("scores")
def test_better_pictures_score_better(case, metric):
    better, worse = (
        float(metric.scores(change(pictures()), SAMPLES).mean())
        for change in (case.better, case.worse)
    )
    assert (better > worse) if metric.better == "higher" else (better < worse)
    if metric.threshold is not None:
        assert min(better, worse) < metric.threshold <= max(better, worse)
    assert isinstance(metric.reverses, bool)


@of_kind("scores")
def test_what_is_not_scored_is_no_number_and_not_counted(metric):
    assert all(metric.applies(sample) for sample in SAMPLES)
    assert not metric.applies(NOTHING)
    shown = pictures()
    shown[2] = torch.nan
    scores = metric.scores(shown, SAMPLES).tolist()
    assert [math.isnan(score) for score in scores] == [n == 2 for n in range(6)]
    assert unscored(scores) == 1
    assert mean(scores).count == 5
    rest = [score for n, score in enumerate(scores) if n != 2]
    assert mean(scores).value == pytest.approx(sum(rest) / 5)


@of_kind("scores")
def test_a_score_does_not_depend_on_the_seed_or_the_role(metric):
    shown = pictures()
    others = [replace(sample, seed=99, role="general") for sample in SAMPLES]
    assert torch.equal(metric.scores(shown, others), metric.scores(shown, SAMPLES))


@of_kind("distance")
def test_the_distance_of_a_set_to_itself_is_nothing(metric):
    found = metric.distance(pictures(), pictures())
    assert found.value == pytest.approx(0.0, abs=1e-6)
    assert found.low <= found.value <= found.high
    assert found.count == 6


@of_kind("distance")
def test_pictures_that_moved_farther_are_worse(case, metric):
    base = pictures()
    before = base.clone()
    near, far = (metric.distance(change(base), base).value for change in (case.better, case.worse))
    assert (near < far) if metric.better == "lower" else (near > far)
    assert metric.distance(case.worse(base), base).value == far
    assert torch.equal(base, before)


@of_kind("distance")
def test_neither_the_order_of_pairs_nor_which_set_is_which_matters(case, metric):
    base, moved = pictures(), case.worse(pictures())
    found = metric.distance(moved, base).value
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert metric.distance(moved[order], base[order]).value == pytest.approx(found, rel=1e-6)
    assert (metric.distance(base, moved).value == pytest.approx(found, rel=1e-6)) is case.symmetric


@of_kind("distance")
def test_sets_that_are_no_pairs_or_no_numbers_give_no_number(metric):
    base = pictures()
    with pytest.raises(MeasurementFailed, match="pair"):
        metric.distance(base, base[:4])
    broken = base.clone()
    broken[2] = torch.nan
    for one, other in ((broken, base), (base, broken)):
        with pytest.raises(MeasurementFailed, match="not finite"):
            metric.distance(one, other)
