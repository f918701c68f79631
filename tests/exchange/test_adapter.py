"""Mapped prompt embeddings give the unedited model what the edited one makes of plain ones."""

import pytest
import torch

from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch
from efface.errors import BadDelta, BadRequest
from efface.exchange.adapter import load_adapter, write_adapter
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
