"""Tables of original names, checked by diffusers' own converters of published checkpoints."""

import pytest
import torch
from diffusers import ChromaTransformer2DModel, FluxTransformer2DModel, Lumina2Transformer2DModel
from diffusers.loaders import single_file_utils

from efface.hosts.families import host_of
from tests.conftest import shared
from tests.exchange.test_comfyui import original, state_of


def test_the_table_of_sd3_is_the_one_that_diffusers_turns_back():
    pipe = shared("tiny_sd3")
    state = {path: weight.detach() for path, weight in pipe.transformer.named_parameters()}
    whole = original(host_of(pipe), pipe.transformer, state)
    whole["pos_embed"] = torch.zeros(1, 4, 32)
    convert = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers
    found = convert(whole, caption_projection_dim=32)
    assert all(torch.equal(found[path], weight) for path, weight in state.items())


def test_the_table_of_flux_is_the_one_that_diffusers_turns_back():
    """Its converter knows FLUX.1's own width alone; one column of every weight is enough."""
    with torch.device("meta"):
        network = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    draw = torch.Generator().manual_seed(0)
    state = {
        path: torch.randn(len(weight), *([1] * (weight.ndim - 1)), generator=draw)
        for path, weight in network.named_parameters()
    }
    whole = original(host_of(shared("tiny_flux")), network, state)
    found = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(whole)
    assert all(torch.equal(found[path], weight) for path, weight in state.items())


@pytest.mark.parametrize(
    ("family", "convert"),
    [
        ("auraflow", single_file_utils.convert_auraflow_transformer_checkpoint_to_diffusers),
        ("flux2klein", single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers),
        ("zimage", single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers),
    ],
)
def test_tables_that_diffusers_turns_back_at_any_width(family, convert):
    pipe = shared(f"tiny_{family}")
    state = state_of(pipe, "transformer")
    found = convert(original(host_of(pipe), pipe.transformer, state))
    assert state.keys() == {path for path, value in found.items() if value is not None}
    assert all(torch.equal(found[path], weight) for path, weight in state.items())


@pytest.mark.parametrize("family", ["chroma", "lumina2"])
def test_tables_that_diffusers_turns_back_at_the_true_width(family):
    """One column of every weight is enough, as for FLUX.1."""
    with torch.device("meta"):
        if family == "chroma":
            network = ChromaTransformer2DModel(num_layers=1, num_single_layers=1)
            convert = single_file_utils.convert_chroma_transformer_checkpoint_to_diffusers
        else:
            network = Lumina2Transformer2DModel(num_layers=1, num_refiner_layers=1)
            convert = single_file_utils.convert_lumina2_to_diffusers
    draw = torch.Generator().manual_seed(0)
    state = {
        path: torch.randn(len(weight), *([1] * (weight.ndim - 1)), generator=draw)
        for path, weight in network.named_parameters()
    }
    found = convert(original(host_of(shared(f"tiny_{family}")), network, state))
    assert state.keys() == found.keys()
    assert all(torch.equal(found[path], weight) for path, weight in state.items())


def test_names_of_pixart_s_original_code():
    pipe = shared("tiny_pixart")
    pieces = host_of(pipe).original_layers.pieces(pipe.transformer)
    assert pieces.keys() == state_of(pipe, "transformer").keys()
    known = {
        "transformer_blocks.1.attn2.to_v.weight": ("blocks.1.cross_attn.kv_linear.weight", 32),
        "transformer_blocks.0.attn1.to_k.bias": ("blocks.0.attn.qkv.bias", 32),
        "caption_projection.linear_1.weight": ("y_embedder.y_proj.fc1.weight", 0),
        "adaln_single.linear.bias": ("t_block.1.bias", 0),
        "scale_shift_table": ("final_layer.scale_shift_table", 0),
    }
    assert {path: (pieces[path].name, pieces[path].start) for path in known} == known
