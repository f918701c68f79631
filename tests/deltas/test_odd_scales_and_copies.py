"""Numbers that wreck a model are refused before a weight changes; edited models can be copied."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from efface.deltas.application import applied_to
from efface.deltas.composition import compose
from efface.deltas.patches import finite
from efface.errors import BadDelta, BadModel, BadRequest
from tests.conftest import host
from tests.exchange.conftest import erased, trained_membrane

KEYS = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def pipe():
    return host("tiny_sd1")


@pytest.fixture(scope="module")
def delta():
    return erased("tiny_sd1")


def state(model):
    return {name: weight.clone() for name, weight in model.unet.state_dict().items()}


def unchanged(before, model):
    now = state(model)
    return all(torch.equal(now[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_scales_that_are_no_finite_numbers_are_refused(pipe, delta, scale):
    before = state(pipe)
    for work in (
        lambda: delta.apply(pipe, scale=scale),
        lambda: delta.merge_into(pipe, scale=scale),
        lambda: delta.scaled(scale),
        lambda: compose([delta], scales=[scale]),
    ):
        with pytest.raises(BadRequest, match="it must be a finite number"):
            work()
    assert unchanged(before, pipe)
    assert not applied_to(pipe)


def test_numbers_of_any_kind_become_scales_or_are_refused():
    for scale in (0.5, "0.5", np.float32(0.5), np.array(0.5), torch.tensor(0.5)):
        assert type(finite(scale)) is float
        assert finite(scale) == 0.5
    for scale in (None, "much", 1j, 10**400, [1, 2]):
        with pytest.raises(BadRequest, match="it must be a finite number"):
            finite(scale)


@pytest.mark.thorough
def test_weights_that_would_be_infinite_are_refused(delta):
    pipe = host("tiny_sd1", dtype=torch.float16)
    before = state(pipe)
    for work in (delta.apply, delta.merge_into):
        with pytest.raises(BadDelta, match=r"not finite in torch\.float16") as caught:
            work(pipe, scale=1e8)
        assert "lower the scale" in str(caught.value)
    with pytest.raises(BadDelta, match="not finite"):
        trained_membrane("tiny_sd1").scaled(1e30).scaled(1e30).apply(host("tiny_sd1"))
    assert unchanged(before, pipe)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("whole", [True, False])
def test_an_edited_model_can_be_copied(pipe, delta, copied, whole):
    before = state(pipe)
    with delta.apply(pipe):
        edited = state(pipe)
        other = copied(pipe if whole else pipe.unet)
        named = other if whole else type("Model", (), {"unet": other})
        (record,) = applied_to(other)
        assert unchanged(edited, named)
        record.revert()
        assert unchanged(before, named)
        assert unchanged(edited, pipe)
        assert not applied_to(other)
    assert unchanged(before, pipe)


def test_a_model_with_a_merged_delta_can_be_copied_without_its_pipeline(pipe, delta):
    delta.merge_into(pipe)
    (record,) = applied_to(copy.deepcopy(pipe.unet))
    assert record.model is None
    with pytest.raises(BadDelta, match="applied to this model already"):
        delta.apply(copy.deepcopy(pipe))


def test_hooks_of_a_gate_are_not_copied(pipe):
    with (
        trained_membrane("tiny_sd1").apply(pipe),
        pytest.raises(BadDelta, match="beside the weights, which cannot be copied"),
    ):
        copy.deepcopy(pipe.unet)


def test_what_was_fused_after_an_edit_holds_it_back(pipe, delta):
    before = state(pipe)
    applied = delta.apply(pipe)
    with torch.random.fork_rng(devices=[]):
        pipe.fuse_qkv_projections()
    with pytest.raises(BadDelta, match="the projections of unet were fused, with the edit in it"):
        applied.revert()
    pipe.unfuse_qkv_projections()  # which leaves the flag as it is, and copies beside the weights
    applied.revert()
    assert unchanged(before, pipe)
    with delta.apply(pipe):
        assert not unchanged(before, pipe)


def test_a_lora_fused_after_an_edit_is_not_lost_by_taking_the_edit_off(pipe, delta):
    from peft import LoraConfig

    before = pipe.unet.get_parameter(KEYS).detach().clone()
    applied = delta.apply(pipe)
    with torch.random.fork_rng(devices=[]):
        pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False))
    pipe.unet.fuse_lora()
    with pytest.raises(BadDelta, match="the LoRA default was fused into unet"):
        applied.revert()
    pipe.unet.unfuse_lora()
    applied.revert()
    found = dict(pipe.unet.named_parameters())[KEYS.replace(".weight", ".base_layer.weight")]
    assert torch.equal(found, before)


class Replaced(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, given):
        return self.layer(given)


def with_old_weight_norm(attention):
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(attention.to_k)


def with_a_wrapper(attention):
    attention.to_k = Replaced(attention.to_k)


def with_a_buffer(attention):
    held = attention.to_k.weight.detach()
    del attention.to_k.weight
    attention.to_k.register_buffer("weight", held)


def with_another_forward(attention):
    held = attention.to_k.weight.detach().clone()
    attention.to_k.forward = lambda given: nn.functional.linear(given, held)


@pytest.mark.parametrize(
    "change", [with_old_weight_norm, with_a_wrapper, with_a_buffer, with_another_forward]
)
def test_layers_that_an_edit_would_pass_over_are_refused(pipe, delta, change):
    change(pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2)
    with pytest.raises(BadModel, match=r"attn2\.to_k") as caught:
        delta.apply(pipe)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [None, 3, "pipe", [1]])
def test_what_is_no_model_is_refused_by_what_it_is(delta, model):
    with pytest.raises(BadModel, match=f"a {type(model).__name__} is no model"):
        delta.apply(model)


def test_a_bare_network_asks_for_its_pipeline(pipe, delta):
    with pytest.raises(BadDelta, match="give the pipeline that this network is of"):
        delta.apply(pipe.unet)
