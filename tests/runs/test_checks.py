"""The detectors after an erasure: nothing happened, or everything broke."""

import pytest
import torch

from efface import registry
from efface.concepts import request
from efface.deltas.patches import DensePatch, TextMapPatch
from efface.errors import ModelCollapsed, NothingChanged
from efface.runs.checks import inspect
from tests.deltas import toys

MAP = "unet/key_value"
KEY = "unet/mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
PISTOL = request("pistol", keep=["cat"])


def text_map(pipe, left, right):
    return toys.delta(pipe, {MAP: TextMapPatch(left, right)})


def identity_map(pipe, factor):
    """Multiplies all keys and values by one plus a factor."""
    return text_map(pipe, factor * torch.eye(32), torch.eye(32))


def test_a_change_of_nothing_is_an_error(tiny_sd1):
    with pytest.raises(NothingChanged, match="changed no weight"):
        inspect(tiny_sd1, identity_map(tiny_sd1, 0.0), PISTOL)


def test_a_change_that_prompts_do_not_feel_is_an_error(tiny_sd1):
    with pytest.raises(NothingChanged, match="which is rounding"):
        inspect(tiny_sd1, identity_map(tiny_sd1, 1e-6), PISTOL)


def test_a_change_of_everything_is_an_error(tiny_sd1):
    with pytest.raises(ModelCollapsed, match="of kept prompts changed by 200%"):
        inspect(tiny_sd1, identity_map(tiny_sd1, 2.0), PISTOL)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_an_error(tiny_sd1, value):
    with pytest.raises(ModelCollapsed, match="not finite"):
        inspect(tiny_sd1, identity_map(tiny_sd1, value), PISTOL)


def test_what_is_seen_is_what_was_done(tiny_sd1):
    """All keys and values times 1.25: every response is 0.25, and so is the change of weights."""
    seen = inspect(tiny_sd1, identity_map(tiny_sd1, 0.25), PISTOL)
    assert seen["probe"] == "keys and values"
    for name in ("weight_change", "erased_response", "kept_response"):
        assert seen[name] == pytest.approx(0.25, rel=1e-5)


def test_changes_outside_text_are_seen_in_the_predicted_noise(tiny_sd1):
    change = DensePatch(0.3 * toys.drawn(0, 32, 32))
    seen = inspect(tiny_sd1, toys.delta(tiny_sd1, {KEY: change}), PISTOL)
    assert seen["probe"] == "predicted noise"
    assert seen["erased_response"] > 0


def test_a_bare_network_is_checked_by_its_weights():
    network = torch.nn.utils.skip_init(torch.nn.Linear, 3, 2)
    with torch.no_grad():
        network.weight.fill_(1.0)
    made = toys.delta(network, {"model/weight": DensePatch(torch.full((2, 3), 0.5))})
    seen = inspect(network, made, PISTOL)
    assert (seen["probe"], seen["weight_change"]) == ("weights", pytest.approx(0.5))


@pytest.mark.parametrize("name", registry.list_methods())
def test_advice_names_settings_that_the_method_has(name):
    method = registry.load("methods", name)
    settings = registry.settings_of(registry.build("methods", name))
    assert method.weakened_by
    assert method.strengthened_by
    for way in (*method.weakened_by, *method.strengthened_by):
        assert way.split()[-1] in settings, way


def test_a_change_that_takes_everything_away_is_an_error(tiny_sd1):
    """All keys and values zeroed: the response is exactly 1, which is everything."""
    with pytest.raises(ModelCollapsed, match=r"leaves 0\.0% of the weights"):
        inspect(tiny_sd1, identity_map(tiny_sd1, -1.0), PISTOL)
    with pytest.raises(ModelCollapsed, match="of kept prompts changed by 95%"):
        inspect(tiny_sd1, identity_map(tiny_sd1, -0.95), PISTOL)


def test_an_emptied_layer_of_a_bare_network_is_an_error():
    network = torch.nn.utils.skip_init(torch.nn.Linear, 3, 2)
    with torch.no_grad():
        network.weight.fill_(1.0)
    made = toys.delta(network, {"model/weight": DensePatch(torch.full((2, 3), -1.0))})
    with pytest.raises(ModelCollapsed, match="model/weight, so the layer is gone"):
        inspect(network, made, PISTOL)
