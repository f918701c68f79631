"""Maps of rows in real pipelines: what layers read, order, files, and what cannot hold them."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file

from efface.concepts import request
from efface.content import module_state
from efface.deltas.application import unedited
from efface.deltas.composition import compose, without
from efface.deltas.delta import Delta
from efface.deltas.expansion import expanded
from efface.deltas.row_maps import RowMap, attach_row_maps, mapped
from efface.errors import BadDelta, BadModel
from efface.hosts.components import component, find
from efface.registry import build
from efface.revival.target import partial
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import shared

KEY = "unet/key_value"


def erased(name="pistol", pipe=None, **settings):
    method = build("methods", "kernel_map", **settings)
    wanted = request(name, keep=["cat"])
    generator = torch.Generator().manual_seed(0)
    return method.erase(pipe or shared("tiny_sd1"), wanted, generator=generator).delta


@pytest.fixture(scope="module")
def delta():
    return erased()


@pytest.fixture(scope="module")
def other():
    return erased("house")


def read(pipe, rows):
    """What every key and value layer makes of rows, in their order."""
    unet = component(pipe, "unet")
    layers = [m for n, m in unet.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v"))]
    assert len(layers) == len(find(pipe, KEY))
    with torch.no_grad():
        return torch.cat([layer(rows).flatten() for layer in layers])


def rows_of(pipe, texts=("a photo of a pistol", "a dog")):
    ids = pipe.tokenizer(
        list(texts), padding="max_length", return_tensors="pt", truncation=True
    ).input_ids
    with torch.no_grad():
        return pipe.text_encoder(ids)[0]


def test_every_layer_reads_the_mapped_rows_and_weights_stay(delta):
    pipe = shared("tiny_sd1")
    rows, before = rows_of(pipe), snapshot(pipe)
    wanted = read(pipe, mapped(delta.row_maps[KEY], rows))
    plain = read(pipe, rows)
    assert not torch.allclose(wanted, plain, atol=1e-3)
    with delta.apply(pipe):
        assert torch.equal(read(pipe, rows), wanted)
        weights = {key: w.clone() for key, w in find(pipe, KEY).items()}
        with unedited(pipe):
            assert torch.equal(read(pipe, rows), plain)
        state = module_state(component(pipe, "unet"))
    assert torch.equal(read(pipe, rows), plain)
    assert not differences(before, snapshot(pipe))
    assert all(torch.equal(w, weights[key]) for key, w in find(pipe, KEY).items())
    assert state != module_state(component(pipe, "unet"))


def test_rows_that_change_in_place_and_gradients_are_seen(delta):
    pipe = shared("tiny_sd1")
    rows = rows_of(pipe).clone()
    with delta.apply(pipe):
        before = read(pipe, rows)
        rows[0].copy_(rows[1])
        assert not torch.equal(read(pipe, rows), before)
        learnt = rows_of(pipe).clone().requires_grad_()
        layer = next(
            m for n, m in component(pipe, "unet").named_modules() if n.endswith("attn2.to_v")
        )
        with torch.no_grad():
            layer(learnt)
        layer(learnt).sum().backward()
        with torch.inference_mode():
            layer(rows + 0.0)
    assert learnt.grad.abs().sum() > 0


def test_a_file_holds_centers_coefficients_and_length_and_opens_without_us(delta, tmp_path):
    delta.save(tmp_path / "delta.safetensors")
    plain = load_file(tmp_path / "delta.safetensors")
    names = {f"rows::{KEY}::0::{name}" for name in ("centers", "coefficients", "length_scale")}
    assert plain.keys() == names
    z, a, s = (plain[f"rows::{KEY}::0::{n}"] for n in ("centers", "coefficients", "length_scale"))
    rows = rows_of(shared("tiny_sd1"))[0]
    by_hand = rows + torch.exp(-(torch.cdist(rows, z) ** 2) / (2 * s**2)) @ a
    assert torch.allclose(mapped(delta.row_maps[KEY], rows), by_hand, atol=1e-3)
    assert Delta.load(tmp_path).id == delta.id
    with safe_open(tmp_path / "delta.safetensors", framework="pt") as file:
        assert file.metadata()["format_version"] == "6"


def test_two_are_applied_one_after_the_other_as_composed_and_recorded(delta, other):
    pipe = shared("tiny_sd1")
    rows = rows_of(pipe, ["a photo of a pistol", "a photo of a house"])
    both = compose([delta, other])
    assert both.id == compose([other, delta]).id
    first, second = sorted([delta, other], key=lambda one: one.id)
    assert both.provenance.parts == (first.id, second.id)
    with both.apply(pipe):
        together = read(pipe, rows)
    with first.apply(pipe), second.apply(pipe):
        assert torch.allclose(read(pipe, rows), together, atol=1e-6)
    halved = compose([delta, other], scales=[0.5, 1.0])
    assert halved.provenance.settings["scales"][delta.id] == 0.5
    one = next(m for m in halved.row_maps[KEY] if torch.equal(m.centers, centers(delta)))
    assert torch.equal(one.coefficients, 0.5 * delta.row_maps[KEY][0].coefficients)


def centers(delta):
    return delta.row_maps[KEY][0].centers


def test_a_row_map_made_on_another_delta_cannot_have_that_taken_out(delta):
    pipe = shared("tiny_sd1")
    with delta.apply(pipe):
        child = erased("house")
    with pytest.raises(BadDelta, match="a row map, which depends"):
        without([delta, child], delta.id)


def test_beside_a_change_of_weights_both_act(delta):
    pipe = shared("tiny_sd1")
    method = build("methods", "uce")
    wanted, generator = request("house", keep=["cat"]), torch.Generator().manual_seed(0)
    linear = method.erase(pipe, wanted, generator=generator).delta
    rows, both = rows_of(pipe), compose([delta, linear])
    with linear.apply(pipe):
        expected = read(pipe, mapped(delta.row_maps[KEY], rows))
    with both.apply(pipe):
        assert torch.allclose(read(pipe, rows), expected, atol=1e-4)
    left = partial(both, frozenset({"gate"}))
    assert not left.row_maps
    assert left.patches.keys() == linear.patches.keys()
    assert partial(delta, frozenset({"gate"})) is None
    assert partial(delta, frozenset({"unet"})) is None
    assert partial(delta, frozenset({"text_encoder"})).row_maps.keys() == {KEY}


def test_weights_and_low_rank_layers_cannot_hold_it(delta):
    pipe = shared("tiny_sd1")
    with pytest.raises(BadDelta, match="--as adapter or --as module"):
        expanded(delta, pipe)


def test_rows_of_another_width_and_compiled_networks_are_refused(delta, monkeypatch):
    pipe = shared("tiny_sd1")
    wide = RowMap(torch.zeros(2, 999), torch.zeros(2, 999), torch.tensor(1.0))
    with pytest.raises(BadDelta, match="row map is of rows of 999"):
        replace(delta, row_maps={KEY: (wide,)}).apply(pipe)
    with pytest.raises(BadDelta, match="this layer reads 3"):
        mapped([wide], torch.zeros(1, 3))
    unet = component(pipe, "unet")
    monkeypatch.setattr(unet, "_compiled_call_impl", lambda *_: None)
    with pytest.raises(BadModel, match="compile"):
        attach_row_maps(pipe, delta.row_maps, 1.0)


def test_a_layer_that_peft_wraps_reads_mapped_rows_with_its_wrapper(delta):
    pipe = shared("tiny_sd1")
    network = copy.deepcopy(pipe.unet)
    with torch.random.fork_rng(devices=[]):
        network.add_adapter(LoraConfig(r=2, target_modules=["attn2.to_k"], init_lora_weights=False))
    model = SimpleNamespace(unet=network)
    handles = attach_row_maps(model, delta.row_maps, 1.0)
    layer = next(m for n, m in network.named_modules() if n.endswith("attn2.to_k"))
    rows = rows_of(pipe)
    with torch.no_grad():
        seen = layer(rows)
        for handle in handles:
            handle.remove()
        assert torch.equal(seen, layer(mapped(delta.row_maps[KEY], rows)))
