"""What every method's delta must survive: lines 6 to 10."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from efface.deltas.composition import compose
from efface.deltas.delta import Delta
from efface.deltas.results import ErasureResult
from efface.errors import BadDelta
from tests.conformance.conftest import kinds
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import shared


def picture(pipe):
    """Runs one denoising step of the pipeline, for a fixed seed and prompt; gives latents."""
    generator = torch.Generator().manual_seed(1)
    sizes = dict(height=16, width=16, num_inference_steps=1, output_type="latent")
    if "PixArt" in type(pipe).__name__:
        sizes["use_resolution_binning"] = False
    if "Wan" in type(pipe).__name__:
        return pipe("a photo of a pistol", generator=generator, num_frames=1, **sizes).frames
    return pipe("a photo of a pistol", generator=generator, **sizes).images


def denoiser(pipe):
    return pipe.components.get("transformer") or pipe.components["unet"]


def test_a_delta_survives_its_file_which_opens_without_us(ran, tmp_path):
    delta = ran.result.delta
    delta.save(tmp_path / "delta.safetensors")
    back = Delta.load(tmp_path)
    assert back.id == delta.id
    assert back.kinds() == delta.kinds()
    assert back.provenance.base_sketch == delta.provenance.base_sketch
    assert back.provenance.request == delta.provenance.request
    plain = load_file(tmp_path / "delta.safetensors")
    assert plain.keys() == delta.tensors().keys()
    assert all(torch.equal(plain[name], tensor) for name, tensor in back.tensors().items())


def test_a_result_survives_its_folder(ran, tmp_path):
    ran.result.save(tmp_path)
    back = ErasureResult.load(tmp_path)
    assert back.delta.id == ran.result.delta.id
    assert back.curves == ran.result.curves
    assert back.seconds == ran.result.seconds
    assert back.diagnostics == ran.result.diagnostics


def test_revert_is_exact_in_every_dtype_also_after_an_exception(ran):
    pipe = copy.deepcopy(ran.pipe)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        denoiser(pipe).to(dtype)
        before = snapshot(pipe)
        with pytest.raises(ZeroDivisionError), ran.result.delta.apply(pipe):
            assert differences(before, snapshot(pipe))
            raise ZeroDivisionError
        assert not differences(before, snapshot(pipe))


def test_scale_zero_is_the_base_exactly_and_scale_one_is_not(ran):
    base = picture(ran.pipe)
    with ran.result.delta.apply(ran.pipe, scale=0.0):
        assert torch.equal(picture(ran.pipe), base)
    with ran.result.delta.apply(ran.pipe):
        assert not torch.allclose(picture(ran.pipe), base)


def test_another_base_is_refused_before_anything_is_written(ran):
    other = shared(ran.case.host, seed=5)
    before = snapshot(other)
    with pytest.raises(BadDelta, match="load the base it was made for"):
        ran.result.delta.apply(other)
    assert not differences(before, snapshot(other))


@kinds()
def test_a_delta_made_on_a_parent_is_refused_without_it_by_name(ran):
    child = ran.child
    assert child.provenance.parents == (ran.result.delta.id,)
    with pytest.raises(BadDelta, match=ran.result.delta.id):
        child.apply(ran.pipe)
    with ran.result.delta.apply(ran.pipe), child.apply(ran.pipe):
        pass
    with pytest.raises(BadDelta, match=ran.result.delta.id):
        compose([child])


@kinds()
def test_composing_independent_deltas_equals_applying_both_in_any_order(ran):
    other = ran.sibling
    assert other.provenance.parents == ()
    composed = compose([ran.result.delta, other])
    assert composed.id == compose([other, ran.result.delta]).id
    weights = composed_weights(ran, composed)
    for first, second in [(ran.result.delta, other), (other, ran.result.delta)]:
        with first.apply(ran.pipe), second.apply(ran.pipe):
            assert_close(ran.pipe, weights)


@kinds()
def test_composing_a_parent_and_its_child_equals_applying_them_in_turn(ran):
    child = ran.child
    composed = compose([child, ran.result.delta])
    assert composed.provenance.parents == ()
    weights = composed_weights(ran, composed)
    with ran.result.delta.apply(ran.pipe), child.apply(ran.pipe):
        assert_close(ran.pipe, weights)


def test_merging_gives_the_applied_weights_for_good(ran):
    merged = copy.deepcopy(ran.pipe)
    if ran.result.delta.row_maps:
        before = snapshot(merged)
        with pytest.raises(BadDelta, match="--as adapter"):
            ran.result.delta.merge_into(merged)
        assert not differences(before, snapshot(merged))
        return
    ran.result.delta.merge_into(merged)
    with ran.result.delta.apply(ran.pipe):
        for one, other in zip(
            denoiser(merged).parameters(), denoiser(ran.pipe).parameters(), strict=True
        ):
            assert torch.equal(one, other)
    with pytest.raises(BadDelta, match="applied to this model already"):
        ran.result.delta.apply(merged)


def composed_weights(ran, composed):
    with composed.apply(ran.pipe):
        return {name: weight.clone() for name, weight in denoiser(ran.pipe).named_parameters()}


def assert_close(pipe, weights):
    for name, weight in denoiser(pipe).named_parameters():
        assert torch.allclose(weight, weights[name], rtol=1e-4, atol=1e-5), name
