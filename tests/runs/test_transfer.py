"""Deltas carried over to a fine-tune of their base."""

import pytest
import torch

from efface.deltas.delta import Delta
from efface.errors import BadDelta
from efface.runs.transfer import distance, transferred
from tests.conftest import host
from tests.deltas import toys
from tests.methods.trained import ran


def fine_tune(model):
    """Another model of the same layout, whose weights are a tenth away."""
    tuned = toys.toy()
    with torch.no_grad():
        for seed, part in enumerate((tuned.unet, tuned.text_encoder)):
            for weight in part.parameters():
                weight.add_(0.1 * toys.drawn(seed + 50, *weight.shape))
    return tuned


@pytest.mark.parametrize("make", [toys.dense, toys.low_rank, toys.rows])
def test_what_was_added_to_the_base_is_added_to_the_fine_tune(make, tmp_path):
    base = toys.toy()
    tuned = fine_tune(base)
    delta = toys.delta(base, make(3))
    with pytest.raises(BadDelta, match="load the base it was made for"):
        delta.apply(tuned)
    carried = transferred(delta, tuned)
    before = toys.weights(tuned)
    with carried.apply(tuned):
        after = toys.weights(tuned)
    with delta.apply(base):
        edited = toys.weights(base)
    for key, weight in toys.weights(base).items():
        assert torch.allclose(after[key] - before[key], edited[key] - weight, atol=1e-6)
    assert carried.provenance.made_on == delta.provenance.base_model
    carried.save(tmp_path / "carried.safetensors")
    read = Delta.load(tmp_path / "carried.safetensors")
    assert read.provenance.made_on == delta.provenance.base_model
    assert read.id == delta.id


def test_the_distance_is_that_of_the_weights_it_changes():
    base = toys.toy()
    delta = toys.delta(base, toys.dense(3))
    assert distance(delta, base) == 0
    assert 0.02 < distance(delta, fine_tune(base)) < 0.5


def test_what_does_not_fit_is_refused():
    base = toys.toy()
    other = toys.toy()
    other.unet.block.attn2.to_k = toys.holding(toys.drawn(1, 4, 2 * toys.WIDTH))
    with pytest.raises(BadDelta, match="for another model"):
        transferred(toys.delta(base, toys.dense(3)), other)
    on_top = toys.delta(base, toys.dense(4), parents=("another",))
    with pytest.raises(BadDelta, match="compose"):
        transferred(on_top, fine_tune(base))


@pytest.mark.thorough
def test_a_gate_goes_along(tiny_sd1):
    delta = ran("spm", tiny_sd1, anchors=0).delta
    tuned = host("tiny_sd1")
    with torch.no_grad():
        for weight in tuned.unet.parameters():
            weight.mul_(1.1)
    carried = transferred(delta, tuned)
    assert carried.gate is delta.gate
    with carried.apply(tuned):
        pass


@pytest.mark.slow
def test_a_gate_that_another_text_encoder_would_shut_is_refused(tiny_sd1):
    delta = ran("spm", tiny_sd1, anchors=0).delta
    other = host("tiny_sd1", seed=9)
    with torch.no_grad():
        for weight in other.text_encoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(9)))
    with pytest.raises(BadDelta, match="stays shut for pistol"):
        transferred(delta, other)
