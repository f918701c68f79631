"""LoRA files of Stable Diffusion XL under the names of the original code."""

from dataclasses import replace
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers
from packaging.version import Version
from safetensors.torch import load_file

from efface.deltas.delta import Delta
from efface.deltas.patches import LowRankPatch
from efface.deltas.provenance import base_sketch
from efface.errors import BadRequest
from efface.exchange.imports import import_delta
from efface.exchange.kohya_names import kohya_name, original_name
from efface.exchange.lora_files import write_kohya
from efface.exchange.low_rank import layers_of
from efface.hosts.streaming import stream
from tests.conftest import host
from tests.exchange.conftest import REQUEST, erased

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture
def pipe():
    return host("tiny_sdxl")


@pytest.fixture
def delta():
    return erased("tiny_sdxl")


def predicted(pipe):
    """Predicts noise from rows and pooled rows that no prompt has to give."""
    draw = torch.Generator().manual_seed(0)
    config = pipe.unet.config
    rows = torch.randn(1, 6, config.cross_attention_dim, generator=draw)
    pooled = torch.randn(1, pipe.text_encoder_2.config.projection_dim, generator=draw)
    noise = torch.randn(1, 4, 8, 8, generator=draw)
    added = {"text_embeds": pooled, "time_ids": torch.zeros(1, 6)}
    with torch.no_grad():
        return pipe.unet(noise, 500, encoder_hidden_states=rows, added_cond_kwargs=added).sample


def with_delta(pipe, delta):
    with delta.apply(pipe):
        return predicted(pipe)


@pytest.mark.thorough
@pytest.mark.skipif(
    Version(diffusers.__version__) < Version("0.39"),
    reason="before 0.39 diffusers knows no layer of the pooled text in kohya's files",
)
def test_diffusers_reads_every_layer_back(pipe, delta, tmp_path):
    before, wanted = predicted(pipe), with_delta(pipe, delta)
    path = write_kohya(layers_of(delta, pipe), tmp_path / "edit.safetensors", {})
    names = {name.partition(".")[0] for name in load_file(path)}
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k" not in names
    assert "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_k" in names
    assert "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v" in names
    assert "lora_unet_output_blocks_1_1_transformer_blocks_0_attn2_to_v" in names
    assert "lora_unet_label_emb_0_0" in names, "the pooled branch goes along"
    pipe.load_lora_weights(path)
    assert torch.allclose(predicted(pipe), wanted, **CLOSE)
    assert not torch.allclose(wanted, before, atol=1e-3)


def test_what_was_written_is_imported_again(pipe, delta, tmp_path):
    path = write_kohya(layers_of(delta, pipe), tmp_path / "edit.safetensors", {})
    again = import_delta(path, pipe, REQUEST)
    assert (again.layout, again.unused) == ("LoRA", ())
    assert torch.allclose(with_delta(pipe, again.delta), with_delta(pipe, delta), **CLOSE)


def test_a_folder_that_is_not_loaded_gives_the_same_file(pipe, delta, tmp_path):
    pipe.save_pretrained(tmp_path / "model", safe_serialization=True)
    loaded = write_kohya(layers_of(delta, pipe), tmp_path / "loaded.safetensors", {})
    streamed = write_kohya(
        layers_of(delta, stream(tmp_path / "model")), tmp_path / "streamed.safetensors", {}
    )
    mine, theirs = load_file(loaded), load_file(streamed)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(
    ("part", "layer", "name"),
    [
        (
            "text_encoder",
            "encoder.layers.0.mlp.fc1",
            "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        ),
        ("text_encoder_2", "text_projection", "lora_te2_text_projection"),
    ],
)
def test_text_encoders_are_numbered_and_read_back(pipe, delta, tmp_path, part, layer, name):
    named = {
        path.replace("text_model.", ""): w for path, w in getattr(pipe, part).named_parameters()
    }
    weight, key = named[f"{layer}.weight"], f"{part}/{layer}.weight"
    draw = torch.Generator().manual_seed(1)
    patch = LowRankPatch(
        up=torch.randn(len(weight), 2, generator=draw),
        down=torch.randn(2, weight.shape[1], generator=draw),
    )
    provenance = replace(delta.provenance, base_sketch=base_sketch(pipe, (key,)))
    made = Delta(patches={key: patch}, provenance=provenance)
    path = write_kohya(layers_of(made, pipe), tmp_path / "text.safetensors", {})
    assert {each.partition(".")[0] for each in load_file(path)} == {name}
    again = import_delta(path, pipe, REQUEST).delta.patches
    assert list(again) == [key]
    zero = torch.zeros(weight.shape)
    assert torch.allclose(again[key].on(zero), patch.on(zero), atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_names_are_those_that_diffusers_turns_back(layers):
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=layers,
        transformer_layers_per_block=(1, 2, 2),
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        use_linear_projection=True,
    )
    blocks = [
        path.removesuffix(".weight")
        for path, weight in unet.named_parameters()
        if "_block" in path and path.endswith(".weight") and weight.ndim >= 2
    ]
    theirs = {
        f"lora_unet_{original_name(path, unet.config).replace('.', '_')}": path for path in blocks
    }
    assert len(theirs) == len(blocks), "no two modules share a name"
    config = SimpleNamespace(layers_per_block=layers)
    spelled = {
        "input_blocks": "down_blocks",
        "middle_block": "mid_block",
        "output_blocks": "up_blocks",
    }
    for name, path in theirs.items():
        (back,) = _maybe_map_sgm_blocks_to_diffusers({name: 0}, config)
        for sgm, ours in spelled.items():
            back = back.replace(sgm, ours)
        whole = "attentions" in path
        place = path if whole else ".".join(path.split(".")[: 3 if "mid_block" in path else 4])
        wanted = f"lora_unet_{place.replace('.', '_')}"
        assert back == wanted if whole else back.startswith(f"{wanted}_"), path


def test_a_full_size_name_is_the_well_known_one():
    config = SimpleNamespace(
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    known = {
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (
            "input_blocks.4.1.transformer_blocks.0.attn2.to_k"
        ),
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "down_blocks.2.attentions.1.proj_in": "input_blocks.8.1.proj_in",
        "mid_block.attentions.0.proj_in": "middle_block.1.proj_in",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
        "up_blocks.1.attentions.2.proj_out": "output_blocks.5.1.proj_out",
        "up_blocks.2.resnets.0.conv_shortcut": "output_blocks.6.0.skip_connection",
        "add_embedding.linear_1": "label_emb.0.0",
    }
    assert {path: original_name(path, config) for path in known} == known


def test_a_network_without_a_name_is_refused(pipe):
    with pytest.raises(BadRequest, match="--as diffusers-lora"):
        kohya_name(pipe, "transformer", "context_embedder")
