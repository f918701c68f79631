"""Mapped prompt embeddings give the unedited model what the edited one makes of plain ones."""

import importlib.util
from dataclasses import replace

import pytest
import torch

from efface.concepts import request
from efface.deltas.composition import compose
from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch
from efface.errors import BadDelta, BadRequest
from efface.exchange.adapter import load_adapter, write_adapter, write_module
from efface.registry import build
from tests.conftest import shared
from tests.exchange.conftest import predicted, with_delta


def embedded(pipe):
    ids = pipe.tokenizer("a pistol", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        return pipe.text_encoder(ids)[0]


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_mapped_embeddings_are_as_good_as_the_delta(pipe, delta, tmp_path, scale):
    path = write_adapter(delta, tmp_path / "adapter.safetensors", {}, scale=scale)
    adapter = load_adapter(path)
    found = predicted(pipe, adapter(embedded(pipe)))
    assert torch.allclose(found, with_delta(pipe, delta, scale), atol=2e-5, rtol=1e-4)
    assert path.stat().st_size < 100_000


def test_embeddings_of_another_width_and_other_files_are_refused(pipe, delta, tmp_path):
    adapter = load_adapter(write_adapter(delta, tmp_path / "adapter.safetensors", {}))
    with pytest.raises(BadRequest, match="was given 7"):
        adapter(torch.zeros(1, 4, 7))
    delta.save(tmp_path / "delta.safetensors")
    with pytest.raises(BadDelta, match="not a text adapter"):
        load_adapter(tmp_path / "delta.safetensors")
    with pytest.raises(BadDelta, match="missing or damaged"):
        load_adapter(tmp_path / "nothing.safetensors")


def test_a_delta_of_weights_is_no_adapter(delta, tmp_path):
    key = next(iter(delta.provenance.base_sketch))
    dense = Delta(patches={key: DensePatch(torch.zeros(1, 1))}, provenance=delta.provenance)
    with pytest.raises(BadRequest, match="not one map"):
        write_adapter(dense, tmp_path / "a.safetensors", {})


@pytest.fixture(scope="module")
def row_map():
    """A delta that maps rows, and the pipeline it is for."""
    pipe = shared("tiny_sd1")
    wanted, generator = request("pistol", keep=["cat"]), torch.Generator().manual_seed(0)
    return build("methods", "kernel_map").erase(pipe, wanted, generator=generator).delta, pipe


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_map_of_rows_as_adapter_and_as_module_is_as_good_as_the_delta(row_map, tmp_path, scale):
    delta, pipe = row_map
    rows = embedded(pipe)
    expected = with_delta(pipe, delta, scale)
    adapter = load_adapter(write_adapter(delta, tmp_path / "rows.safetensors", {}, scale=scale))
    assert torch.allclose(predicted(pipe, adapter(rows)), expected, atol=2e-5, rtol=1e-4)
    write_module(delta, tmp_path / "module", {"base_model": "toy"}, scale=scale)
    spec = importlib.util.spec_from_file_location("alone", tmp_path / "module" / "row_module.py")
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    module = alone.TextRowMap.from_pretrained(tmp_path / "module")
    assert module.config.efface == {"base_model": "toy"}
    assert torch.allclose(predicted(pipe, module(rows)), expected, atol=2e-5, rtol=1e-4)
    before = predicted(pipe, rows)
    handles = module.attach(pipe.unet)
    assert torch.allclose(predicted(pipe, rows), expected, atol=2e-5, rtol=1e-4)
    for handle in handles:
        handle.remove()
    assert torch.equal(predicted(pipe, rows), before)


def test_a_map_of_rows_that_embeddings_cannot_stand_in_for_is_refused(row_map, delta, tmp_path):
    made, _ = row_map
    with pytest.raises(BadRequest, match="was given 7"):
        write_adapter(made, tmp_path / "rows.safetensors", {})
        load_adapter(tmp_path / "rows.safetensors")(torch.zeros(1, 4, 7))
    with pytest.raises(BadRequest, match="cannot stand in for all of it"):
        write_adapter(compose([made, delta]), tmp_path / "both.safetensors", {})
    (maps,) = made.row_maps.values()
    tokens = replace(made, row_maps={"transformer/text_tokens": maps})
    with pytest.raises(BadRequest, match="other layers of this family"):
        write_module(tokens, tmp_path / "tokens", {})
    with pytest.raises(BadRequest, match="maps no rows"):
        write_module(delta, tmp_path / "none", {})
