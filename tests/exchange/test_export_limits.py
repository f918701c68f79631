"""What exports say of scales, biases, gates and cards, and what they refuse to write."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch, LowRankPatch
from efface.deltas.provenance import base_sketch
from efface.errors import BadDelta, BadRequest
from efface.exchange.adapter import write_adapter
from efface.exchange.cards import cards_of
from efface.exchange.folders import write_folder
from efface.exchange.imports import import_delta
from efface.exchange.lora_files import write_diffusers, write_kohya, write_peft
from efface.exchange.lora_settings import header_settings
from efface.exchange.low_rank import layers_of
from efface.exchange.spm_files import prompts_of, write_spm
from efface.runs.erasing import erase
from tests.conftest import host
from tests.exchange.conftest import KEY, LAYER, OTHER, REQUEST, SECOND, matrices


@pytest.fixture(scope="module")
def whole(base):
    return erase(base, REQUEST, method="uce").delta


def made(base, whole, patches):
    provenance = replace(whole.provenance, base_sketch=base_sketch(base, tuple(patches)))
    return Delta(patches=patches, provenance=provenance)


@pytest.fixture(scope="module")
def mixed(base, whole):
    """Two layers of ranks 4 and 2."""
    return made(
        base,
        whole,
        {KEY: LowRankPatch(*matrices(base)), SECOND: LowRankPatch(*matrices(base, OTHER, rank=2))},
    )


def header(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_layers_of_other_ranks_are_scaled_by_what_the_header_says(base, mixed, tmp_path):
    path = write_diffusers(layers_of(mixed, base), tmp_path, {})
    ((part, settings),) = header_settings(path, header(path)).items()
    assert part == "unet"
    assert settings.scale([LAYER], 4) == settings.scale([OTHER], 2) == 1
    again = import_delta(path, base, REQUEST).delta.patches
    for key, patch in mixed.patches.items():
        assert torch.allclose(again[key].up @ again[key].down, patch.up @ patch.down, atol=1e-6)


@pytest.mark.thorough
def test_a_layer_that_ends_like_another_keeps_its_own_rank(tmp_path):
    """FLUX has ``proj_out`` and ``single_transformer_blocks.0.proj_out``."""
    from peft import PeftModel

    pipe = host("tiny_flux")
    names = [f"{n}.weight" for n, m in pipe.transformer.named_modules() if n.endswith("proj_out")]
    patches, draw = {}, torch.Generator().manual_seed(0)
    for rank, name in enumerate(names, 1):
        weight = pipe.transformer.get_parameter(name)
        up, down = (
            torch.randn(len(weight), rank, generator=draw),
            torch.randn(rank, weight.shape[1], generator=draw),
        )
        patches[f"transformer/{name}"] = LowRankPatch(up, down)
    assert "proj_out.weight" in names
    provenance = erase(pipe, REQUEST, method="uce").delta.provenance
    provenance = replace(provenance, base_sketch=base_sketch(pipe, tuple(patches)))
    write_peft(layers_of(Delta(patches=patches, provenance=provenance), pipe), tmp_path, {})
    theirs = PeftModel.from_pretrained(pipe.transformer, tmp_path)
    for key, patch in patches.items():
        module = theirs.base_model.model.get_submodule(
            key.removeprefix("transformer/").removesuffix(".weight")
        )
        assert torch.allclose(module.get_delta_weight("default"), patch.up @ patch.down, atol=1e-6)


@pytest.fixture(scope="module")
def biased(base, whole):
    """A dense change, a bias and a norm, as esd's default makes them."""
    draw = torch.Generator().manual_seed(0)
    keys = (KEY, "unet/conv_in.bias", "unet/conv_norm_out.weight")
    weights = {key: base.unet.get_parameter(key.removeprefix("unet/")) for key in keys}
    return made(
        base,
        whole,
        {k: DensePatch(torch.randn(w.shape, generator=draw)) for k, w in weights.items()},
    )


def test_biases_and_norms_go_into_kohya_files_whole(base, biased, tmp_path):
    rank = min(base.unet.get_parameter(KEY.removeprefix("unet/")).shape)
    layers = layers_of(biased, base, rank=rank, scale=0.5, biases=True)
    path = write_kohya(layers, tmp_path / "edit.safetensors", {})
    assert {"lora_unet_conv_in.diff_b", "lora_unet_conv_norm_out.diff"} <= load_file(path).keys()
    again = import_delta(path, base, REQUEST).delta
    for key, patch in biased.patches.items():
        weight = base.unet.get_parameter(key.removeprefix("unet/")).detach()
        assert torch.allclose(again.difference(key, weight), 0.5 * patch.difference, atol=1e-5)


@pytest.mark.parametrize("rank", [None, 2])
def test_other_layouts_say_where_biases_can_go(base, biased, rank, tmp_path):
    with pytest.raises(BadRequest, match=r"2 biases or norms .*--as kohya"):
        layers_of(biased, base, rank=rank)
    layers = layers_of(biased, base, rank=2, biases=True)
    for write in (write_diffusers, write_peft):
        with pytest.raises(BadRequest, match="--as kohya"):
            write(layers, tmp_path, {})
    with pytest.raises(BadRequest, match="--as kohya"):
        write_spm(layers, tmp_path / "x", {}, prompts=["pistol"])
    with pytest.raises(BadRequest, match="--rank N"):
        layers_of(biased, base, biases=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rank": 0}, "the rank is 0"),
        ({"rank": -1}, "the rank is -1"),
        ({"scale": 0.0}, "the scale is 0, which changes nothing; give another one"),
        ({"scale": float("nan")}, "the scale is nan"),
        ({"scale": float("inf")}, "the scale is inf"),
    ],
)
def test_scales_and_ranks_without_sense_are_refused(base, whole, options, text, tmp_path):
    with pytest.raises(BadRequest, match=text):
        layers_of(whole, base, **options)
    if "scale" in options:
        with pytest.raises(BadRequest, match=text):
            write_adapter(whole, tmp_path / "a.safetensors", {}, **options)
        with pytest.raises(BadRequest, match=text):
            write_folder(tmp_path, whole, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_deltas_that_are_not_finite_are_refused(base, whole, value, tmp_path):
    broken = made(base, whole, {KEY: DensePatch(torch.full((64, 32), value))})
    scale = 1e30 if value == 1e30 else 1.0
    with pytest.raises(BadDelta, match="not finite"):
        layers_of(broken, base, rank=2, scale=scale)
    with pytest.raises(BadDelta, match="not finite"):
        write_folder(tmp_path, broken, tmp_path / "out", scale=scale)
    assert not list(tmp_path.iterdir())


def test_another_base_is_refused_for_every_kind_of_patch(mixed):
    with pytest.raises(BadDelta, match="load the base it was made for"):
        layers_of(mixed, host("tiny_sd1", seed=9))


def test_what_had_no_gate_gets_none_on_the_way_back(base, whole, tmp_path):
    alike = made(base, whole, {KEY: LowRankPatch(*matrices(base))})
    for gated in (True, False):
        path = tmp_path / f"{gated}.safetensors"
        write_spm(layers_of(alike, base), path, {}, prompts=["pistol"], gated=gated)
        found = import_delta(path, base, REQUEST)
        assert (found.layout, found.delta.gate is not None) == ("SPM", gated)
        assert found.opens_for == (("pistol",) if gated else ())


@pytest.mark.parametrize("gate", ["linear", "none"])
def test_an_imported_file_s_prompts_go_out_again(base, mixed, tmp_path, gate):
    alike = made(base, mixed, {KEY: mixed.patches[KEY]})
    path = tmp_path / "spm.safetensors"
    write_spm(layers_of(alike, base), path, {}, prompts=["pistol", "revolver"])
    found = import_delta(path, base, REQUEST, gate=gate).delta
    assert prompts_of(found) == ("pistol", "revolver")
    assert prompts_of(alike) == ("pistol",)


def test_cards_of_another_delta_stay_where_they_are(tmp_path):
    mine, other = "0123456789abcdef", "fedcba9876543210"
    card, values = tmp_path / "card.md", tmp_path / "card.json"
    card.write_text("# Card\n")
    assert cards_of(tmp_path, mine) == ([card], [])
    values.write_text(json.dumps({"identity": {"delta": mine}}))
    card.write_text(f"base `x`, delta `{mine}`.\n")
    assert cards_of(tmp_path, mine) == ([card, values], [])
    for text in (json.dumps({"identity": {"delta": other}}), "{", "[" * 100_000):
        values.write_text(text)
        assert cards_of(tmp_path, mine) == ([], [card, values])
    values.unlink()
    assert cards_of(tmp_path, other) == ([], [card])


def test_norms_of_text_encoders_have_no_place_in_kohya_files(base, whole, tmp_path):
    norm = "text_encoder/encoder.layers.0.layer_norm1.bias"
    weight = base.text_encoder.get_parameter(norm.removeprefix("text_encoder/"))
    delta = made(base, whole, {norm: DensePatch(torch.ones_like(weight))})
    with pytest.raises(BadRequest, match="ComfyUI reads no such layer"):
        write_kohya(layers_of(delta, base, biases=True), tmp_path / "x.safetensors", {})
