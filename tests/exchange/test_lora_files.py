"""LoRA files in three layouts do, in the tools that read them, what the delta does."""

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open

from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch, RowPatch
from efface.errors import BadRequest
from efface.exchange.imports import import_delta
from efface.exchange.lora_files import write_diffusers, write_kohya, write_peft
from efface.exchange.low_rank import layers_of
from tests.exchange.conftest import REQUEST, predicted, with_delta

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
FACTS = {"base_model": "tiny"}


def changed(delta, patches):
    sketch = {key: values for key, values in delta.provenance.base_sketch.items()}
    return Delta(patches=patches, provenance=delta.provenance) if sketch else None


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_diffusers_loads_it_and_predicts_what_the_delta_gives(pipe, delta, tmp_path, scale):
    before, wanted = predicted(pipe), with_delta(pipe, delta, scale)
    write_diffusers(layers_of(delta, pipe, scale=scale), tmp_path, FACTS)
    pipe.load_lora_weights(tmp_path)
    found = predicted(pipe)
    assert torch.allclose(found, wanted, **CLOSE)
    assert not torch.allclose(found, before, atol=1e-3)
    pipe.unload_lora_weights()
    assert torch.equal(predicted(pipe), before)


def test_peft_loads_the_folder(pipe, delta, tmp_path):
    wanted = with_delta(pipe, delta)
    write_peft(layers_of(delta, pipe), tmp_path, FACTS)
    pipe.unet = PeftModel.from_pretrained(pipe.unet, tmp_path)
    assert torch.allclose(predicted(pipe), wanted, **CLOSE)


def test_the_kohya_file_loads_through_diffusers_converter(pipe, delta, tmp_path):
    wanted = with_delta(pipe, delta)
    path = write_kohya(layers_of(delta, pipe), tmp_path / "edit.safetensors", FACTS)
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    assert any(name.endswith("attn2_to_k.lora_down.weight") for name in names)
    assert all(name.startswith("lora_unet_") for name in names)
    assert sum(name.endswith(".alpha") for name in names) == len(names) // 3
    pipe.load_lora_weights(path)
    assert torch.allclose(predicted(pipe), wanted, **CLOSE)


@pytest.mark.parametrize("write", [write_diffusers, write_peft, write_kohya])
def test_what_was_written_is_read_back(pipe, delta, tmp_path, write):
    place = tmp_path / "edit.safetensors" if write is write_kohya else tmp_path / "lora"
    path = write(layers_of(delta, pipe), place, FACTS)
    again = import_delta(path, pipe, REQUEST)
    assert again.layout == "LoRA"
    assert again.unused == ()
    assert torch.allclose(with_delta(pipe, again.delta), with_delta(pipe, delta), **CLOSE)
    assert again.delta.provenance.settings["file"] == path.name


def test_dense_changes_need_a_rank_and_tell_what_is_lost(pipe, delta):
    key = next(k for k in delta.provenance.base_sketch if k.endswith("to_k.weight"))
    weight = dict(pipe.unet.named_parameters())[key.removeprefix("unet/")]
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(weight.shape, generator=generator)
    made = changed(delta, {key: DensePatch(dense)})
    with pytest.raises(BadRequest, match=r"--rank N"):
        layers_of(made, pipe)
    values = torch.linalg.svdvals(dense.double())
    for rank in (1, 4):
        found = layers_of(made, pipe, rank=rank)
        expected = float((values[rank:].square().sum() / values.square().sum()).sqrt())
        assert found.lost == pytest.approx(expected, rel=1e-4)
        assert found.by_module[key.removeprefix("unet/").removesuffix(".weight")].rank == rank
    assert layers_of(made, pipe, rank=min(weight.shape)).lost < 1e-6


def test_what_a_lora_cannot_hold_is_refused(pipe, delta):
    rows = RowPatch(torch.tensor([1]), torch.ones(1, 32))
    key = "text_encoder/embeddings.token_embedding.weight"
    from dataclasses import replace

    from efface.deltas.provenance import base_sketch

    provenance = replace(delta.provenance, base_sketch=base_sketch(pipe, (key,)))
    with pytest.raises(BadRequest, match="cannot hold"):
        layers_of(Delta(patches={key: rows}, provenance=provenance), pipe)
    both = replace(
        delta.provenance, base_sketch={**delta.provenance.base_sketch, **provenance.base_sketch}
    )
    with pytest.raises(BadRequest, match="changes text_encoder, unet"):
        layers_of(Delta(patches={key: rows, **delta.patches}, provenance=both), pipe)
