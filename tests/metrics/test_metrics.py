"""Metrics against hand arithmetic and an independent library."""

import math

import pytest
import torch

from efface import registry
from efface.concepts import Concept
from efface.contracts import JudgeCard, Sample
from efface.errors import MeasurementFailed
from efface.metrics.clip_score import ClipScore
from efface.metrics.estimates import UNKNOWN
from efface.metrics.feature_distance import FeatureDistance
from efface.metrics.kid import Kid, squared_mmd, squared_mmd_of_pairs
from efface.metrics.presence import Presence
from efface.metrics.structure_distance import StructureDistance
from efface.metrics.style_presence import StylePresence

CAT, DOG = Concept(name="cat"), Concept(name="dog")
INK = Concept(name="ink", kind="style")


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Judge:
    """Sees cats in dark pictures and everything else in bright ones."""

    card = JudgeCard("test", "1", 0.6, UNKNOWN, UNKNOWN)

    def presence(self, images, concept):
        bright = images.mean(dim=(1, 2, 3))
        return 1 - bright if concept.name == "cat" else bright


def test_every_metric_states_its_facts():
    listed = registry.entries("metrics")
    assert {one.name for one in listed} == {
        "clip_score",
        "feature_distance",
        "kid",
        "leftover",
        "presence",
        "structure_distance",
        "style_presence",
    }
    for entry in listed:
        metric = registry.load("metrics", entry.name)
        assert metric.name == entry.name
        assert metric.unit
        assert metric.better in ("higher", "lower")
        assert metric.uses in ("judge", "leftover", "clip", "features", "pixels")


def test_presence_asks_about_each_samples_own_concept():
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.1, 0.2, 0.9, 0.5)])
    samples = [Sample("p", seed, "kept", c) for seed, c in enumerate((CAT, DOG, CAT, None))]
    metric = Presence(Judge())
    scores = metric.scores(images, samples)
    assert scores[:3].tolist() == pytest.approx([0.9, 0.2, 0.1])
    assert scores[3].isnan()
    assert metric.threshold == 0.6
    assert [metric.applies(sample) for sample in samples] == [True, True, True, False]


def test_presence_of_several_things_is_that_of_the_least_probable():
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.1, 0.9, 0.3, 0.3)])
    owl = Concept(name="owl")
    samples = [
        Sample("p", 0, "composition", CAT, others=(DOG,)),
        Sample("p", 1, "composition", DOG, others=(owl, CAT)),
        Sample("p", 2, "kept", CAT),
        Sample("p", 3, "composition", CAT, others=(CAT, owl)),
    ]
    assert Presence(Judge()).scores(images, samples).tolist() == pytest.approx([0.1, 0.1, 0.7, 0.3])
    assert [one.subject for one in samples[:3]] == ["cat and dog", "dog and owl and cat", "cat"]


def test_style_presence_asks_about_the_style():
    images = torch.full((1, 3, 4, 4), 0.7)
    sample = Sample("p", 0, "kept", CAT, INK)
    assert StylePresence(Judge()).scores(images, [sample]).tolist() == pytest.approx([0.7])
    assert not StylePresence(Judge()).applies(Sample("p", 0, "kept", CAT))


class Clip:
    def image_features(self, images):
        return torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])

    def text_features(self, texts):
        return torch.tensor([[3.0, 4.0]]).repeat(len(texts), 1)


def test_clip_score_by_hand():
    """Cosines with (3, 4) / 5 are 0.6, 0.8 and -0.6; the last is cut at 0."""
    samples = [Sample("p", seed, "kept") for seed in range(3)]
    scores = ClipScore(Clip()).scores(torch.zeros(3, 3, 2, 2), samples)
    assert scores.tolist() == pytest.approx([60, 80, 0])
    assert not ClipScore(Clip()).applies(Sample(" ", 0, "general"))


def test_feature_distance_by_hand():
    """Angles of 0 and 90 degrees: distances 0 and 1, mean 0.5."""
    before = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    after = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    found = FeatureDistance(lambda vectors: vectors).distance(after, before)
    assert (found.value, found.count) == (pytest.approx(0.5), 2)


def test_feature_distance_refuses_what_is_no_pair_or_no_number():
    metric = FeatureDistance(lambda vectors: vectors)
    with pytest.raises(MeasurementFailed, match="cannot be paired"):
        metric.distance(torch.ones(2, 2), torch.ones(3, 2))
    with pytest.raises(MeasurementFailed, match="not finite"):
        metric.distance(torch.full((2, 2), math.nan), torch.ones(2, 2))


def test_structure_distance_by_hand():
    """Of flat pictures a and b, SSIM is (2ab + c) / (a^2 + b^2 + c) with c = 0.01^2."""
    before, after = torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)
    after[1] = 0.02
    found = StructureDistance().distance(after, before)
    assert (found.value, found.count) == (pytest.approx((1 - 1e-4 / 5e-4) / 2), 2)


def test_structure_distance_sees_a_mirrored_picture_that_means_do_not():
    picture = drawn(1, 3, 32, 32)
    assert StructureDistance().distance(picture, picture).value == pytest.approx(0, abs=1e-9)
    assert StructureDistance().distance(picture.flip(-1), picture).value > 0.8


def test_structure_distance_refuses_what_is_no_pair_or_no_number():
    with pytest.raises(MeasurementFailed, match="cannot be paired"):
        StructureDistance().distance(drawn(2, 3, 16, 16), drawn(3, 3, 16, 16))
    broken = torch.full((1, 3, 16, 16), math.nan)
    with pytest.raises(MeasurementFailed, match="not finite"):
        StructureDistance().distance(broken, drawn(1, 3, 16, 16))


def test_squared_mmd_is_torchmetrics_estimator():
    from torchmetrics.image.kid import poly_mmd

    first, second = drawn(12, 5), drawn(12, 5, seed=1) + 0.3
    expected = float(poly_mmd(first.double(), second.double()))
    assert squared_mmd(first, second) == pytest.approx(expected, rel=1e-9)


def test_squared_mmd_by_hand():
    """One dimension, kernel (xy + 1)^3, sets {0, 1} and {0, 2}.

    Within: k(0, 1) = 1 and k(0, 2) = 1. Across: (1 + 1 + 1 + 27) / 4 = 7.5. So 2 - 15 = -13.
    """
    first, second = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    assert squared_mmd(first, second) == pytest.approx(-13)


def test_pairs_leave_their_own_products_out():
    """Same sets as pairs: across without (0, 0) and (1, 2) is (k(0, 2) + k(1, 0)) / 2 = 1.

    So 1 + 1 - 2 = 0, while the estimator for independent sets gives -13. A third pair makes the
    jackknife possible; (1, 1) adds nothing new to the sums below.
    """
    first, second = torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([[0.0], [2.0], [1.0]])
    kernel = lambda x, y: (x * y + 1) ** 3  # noqa: E731
    a, b = first.flatten().tolist(), second.flatten().tolist()
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    terms = [
        kernel(a[i], a[j]) + kernel(b[i], b[j]) - kernel(a[i], b[j]) - kernel(a[j], b[i])
        for i, j in pairs
    ]
    assert squared_mmd_of_pairs(first, second).value == pytest.approx(sum(terms) / 6)


def test_an_unchanged_model_is_at_distance_zero():
    pictures = drawn(10, 6)
    found = Kid(lambda vectors: vectors).distance(pictures, pictures)
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.thorough
def test_pairs_are_unbiased_under_strong_pairing():
    """Two hundred sets of thirty, y = x plus noise; the truth comes from big independent sets."""
    generator = torch.Generator().manual_seed(0)

    def pairs(count):
        x = torch.randn(count, 3, generator=generator)
        return x, x + 0.5 * torch.randn(count, 3, generator=generator)

    x, y = pairs(3000)
    truth = squared_mmd(x, pairs(3000)[1])
    del y
    values = [squared_mmd_of_pairs(*pairs(30)) for _ in range(200)]
    centre = sum(one.value for one in values) / 200
    independent = sum(squared_mmd(*pairs(30)) for _ in range(200)) / 200
    assert abs(centre - truth) < 0.1
    assert independent < centre - 0.1  # the usual estimator is pulled down by the pairs
    covered = sum(one.low <= truth <= one.high for one in values) / 200
    assert covered > 0.85


def test_kid_needs_pairs_and_finite_features():
    metric = Kid(lambda vectors: vectors)
    with pytest.raises(MeasurementFailed, match="at least three pairs"):
        metric.distance(torch.ones(2, 2), torch.ones(2, 2))
    with pytest.raises(MeasurementFailed, match="not finite"):
        metric.distance(torch.full((3, 2), math.nan), torch.ones(3, 2))
