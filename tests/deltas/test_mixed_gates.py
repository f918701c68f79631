"""Patches with a gate and patches without one in a single delta: closed form, then membranes."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

import efface
from efface.deltas.application import unedited
from efface.deltas.composition import compose
from efface.deltas.delta import Delta
from efface.diffusion.denoising import Denoiser
from efface.errors import BadDelta
from tests.cases import TRAINED
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import host
from tests.deltas.test_gates import HOUSE, gated
from tests.methods.trained import ran

SMALL = TRAINED | {"steps": 2, "keep_weight": 0.0}
PROMPTS = ["a pistol", "a house", "a cat", ""]


def predictions(pipe):
    denoiser = Denoiser(pipe)
    start = torch.randn(1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(1))
    times = torch.full((len(PROMPTS),), 500.0)
    with denoiser.inference_mode():
        return denoiser.predict(
            start.expand(len(PROMPTS), -1, -1, -1), times, denoiser.conditions(PROMPTS)
        )


@pytest.fixture(scope="module")
def pair():
    """A dense edit of one concept and membranes of another, each made on the bare base."""
    pipe = host("tiny_sd1")
    dense = ran("esd", pipe, HOUSE, steps=2, learning_rate=0.01, keep_weight=0.0).delta
    return pipe, dense, gated(pipe)


@pytest.mark.thorough
def test_one_delta_does_what_both_do_in_turn(pair):
    pipe, dense, membranes = pair
    both = compose([dense, membranes])
    assert both.id == compose([membranes, dense]).id
    assert both.patches.keys() == membranes.patches.keys()
    assert both.ungated.keys() == dense.patches.keys()
    before, base = snapshot(pipe), predictions(pipe)
    with dense.apply(pipe), membranes.apply(pipe):
        in_turn = predictions(pipe)
    with both.apply(pipe):
        together = predictions(pipe)
        with unedited(pipe):
            assert torch.equal(predictions(pipe), base)
    assert torch.allclose(together, in_turn, atol=1e-5)
    assert not torch.allclose(together, base, atol=1e-4)
    assert not differences(before, snapshot(pipe))
    assert torch.equal(predictions(pipe), base)


@pytest.mark.thorough
def test_scales_reach_both_kinds(pair):
    pipe, dense, membranes = pair
    half = compose([dense, membranes], scales=[0.5, 0.25])
    with half.apply(pipe):
        together = predictions(pipe)
    with dense.apply(pipe, scale=0.5), membranes.apply(pipe, scale=0.25):
        assert torch.allclose(predictions(pipe), together, atol=1e-5)
    nothing = compose([dense, membranes])
    base = predictions(pipe)
    with nothing.apply(pipe, scale=0.0):
        assert torch.equal(predictions(pipe), base)


def test_a_file_keeps_both_kinds_and_older_versions_refuse_it(pair, tmp_path):
    both = compose([pair[1], pair[2]])
    both.save(tmp_path / "delta.safetensors")
    back = Delta.load(tmp_path)
    assert back.id == both.id
    assert back.patches.keys() == both.patches.keys()
    assert back.ungated.keys() == both.ungated.keys()
    with safe_open(tmp_path / "delta.safetensors", framework="pt") as opened:
        header = opened.metadata()
    assert header["format_version"] == "4"
    assert any(key.startswith("ungated::") for key in json.loads(header["kinds"]))


def test_merging_drops_the_gate_and_keeps_the_rest(pair):
    _, dense, membranes = pair
    merged, other = host("tiny_sd1"), host("tiny_sd1")
    compose([dense, membranes]).merge_into(merged)
    compose([dense, replace(membranes, gate=None)]).merge_into(other)
    assert torch.allclose(predictions(merged), predictions(other), atol=1e-5)


def test_three_of_both_kinds_and_compositions_of_compositions(pair):
    pipe, dense, membranes = pair
    third = gated(pipe, HOUSE)
    one = compose([compose([dense, membranes]), third])
    other = compose([dense, compose([membranes, third])])
    assert one.gate.membranes == other.gate.membranes == 2
    seen = []
    for delta in (one, other):
        with delta.apply(pipe):
            seen.append(predictions(pipe))
    assert torch.allclose(*seen, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "names", ["uce+spm", "spm+uce", pytest.param("spm+esd", marks=pytest.mark.slow)]
)
def test_methods_in_turn_may_end_or_begin_with_membranes(names):
    pipe = host("tiny_sd1")
    settings = {name: SMALL for name in names.split("+") if name != "uce"}
    wanted = efface.request("pistol", keep=["cat"])
    result = efface.erase(pipe, wanted, method=names, **settings)
    assert result.delta.gate is not None
    assert result.delta.ungated
    assert result.diagnostics["erased_response"] > 0


@pytest.mark.thorough
def test_gated_deltas_of_different_ranks_are_refused_with_advice(pair):
    pipe, _, membranes = pair
    with pytest.raises(BadDelta, match="one after the other"):
        compose([membranes, gated(pipe, HOUSE, rank=2)])
