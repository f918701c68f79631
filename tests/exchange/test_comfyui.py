"""ComfyUI takes every key of an exported file, and what it adds up is the applied delta.

The rules are those of ComfyUI's loader of LoRA files: it has a map from the names it looks up to
its own parameters, of which some are rows of a larger one and some have their halves exchanged;
under a name it reads a pair of matrices with alpha, a difference, and, if its parameter has no
such rows, a difference of the bias.
"""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch, LowRankPatch, RowPatch
from efface.deltas.provenance import base_sketch
from efface.errors import BadRequest
from efface.exchange.comfyui import write_comfyui
from efface.exchange.imports import import_delta
from efface.exchange.low_rank import every_network
from efface.hosts.components import canonical, components, parameters
from efface.hosts.families import host_of
from tests.conftest import shared
from tests.exchange.conftest import REQUEST, erased, trained_membrane

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
ENCODERS = {
    "sd1": {"text_encoder": "clip_l"},
    "sd3": {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"},
    "flux": {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"},
    "pixart": {"text_encoder": "t5xxl"},
    "chroma": {"text_encoder": "t5xxl"},
    "auraflow": {"text_encoder": "pile_t5xl"},
    "wan": {"text_encoder": "umt5xxl"},
}
TRANSFORMERS = [
    "sd3",
    "flux",
    "pixart",
    *(
        pytest.param(family, marks=pytest.mark.slow)
        for family in ("auraflow", "chroma", "flux2klein", "qwenimage", "wan", "zimage")
    ),
    "lumina2",
]
DIFFUSERS_NAMES = {
    # ComfyUI has classes with a map from diffusers' names, and Chroma is one of FLUX.1.
    "chroma": r"(?!distilled_guidance_layer)",
    "flux2klein": r"(single_)?transformer_blocks\.|x_embedder|context_embedder|proj_out|norm_out",
    "wan": r"(?!)",
    "lumina2": r"(?!)",  # the class has one of Z-Image's names, which are others
}
"""Layers of families that ComfyUI looks up after ``transformer.``; all others by default."""


def original(host, network, state):
    """Puts a transformer's parameters together as the original network has them."""
    if host.original_layers is None:
        return dict(state)
    whole = {}
    for path, piece in host.original_layers.pieces(network).items():
        value = state[path]
        rows = torch.cat(value.chunk(2)[::-1]) if piece.swapped else value
        target = whole.setdefault(piece.name, torch.zeros(piece.whole, *value.shape[1:]))
        target[piece.start : piece.start + piece.rows] = rows
    return whole


def test_rows_of_one_layer_become_one_pair_or_one_difference(tmp_path):
    pipe = shared("tiny_lumina2")
    block, draw = "transformer/layers.0.attn", torch.Generator().manual_seed(0)
    q, k, v = (dict(parameters(pipe))[f"{block}.to_{each}.weight"] for each in "qkv")
    low = {
        f"{block}.to_{each}.weight": LowRankPatch(
            torch.randn(len(weight), rank, generator=draw), torch.randn(rank, 24, generator=draw)
        )
        for each, weight, rank in (("q", q, 1), ("v", v, 2))
    }
    want = torch.cat([low[f"{block}.to_q.weight"].on(q), 0 * k, low[f"{block}.to_v.weight"].on(v)])
    path = tmp_path / "a.safetensors"
    tensors = load_file(write_comfyui(every_network(changed(pipe, low), pipe), path, {}))
    name = "diffusion_model.layers.0.attention.qkv"
    assert tensors.keys() == {
        f"{name}.{n}" for n in ("lora_up.weight", "lora_down.weight", "alpha")
    }
    assert float(tensors[f"{name}.alpha"]) == len(tensors[f"{name}.lora_down.weight"]) == 3
    product = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]
    assert torch.allclose(product, want, **CLOSE)
    both = low | {f"{block}.to_k.weight": DensePatch(torch.randn(k.shape, generator=draw))}
    tensors = load_file(write_comfyui(every_network(changed(pipe, both), pipe), path, {}))
    want[len(q) : len(q) + len(k)] = both[f"{block}.to_k.weight"].difference
    assert tensors.keys() == {f"{name}.diff"}  # ComfyUI takes a pair or a difference, not both
    assert torch.allclose(tensors[f"{name}.diff"], want, **CLOSE)


def test_encoders_whose_names_in_comfyui_are_not_known_are_refused(tmp_path):
    pipe = shared("tiny_qwenimage")
    key = next(k for k, w in parameters(pipe) if k.startswith("text_encoder/") and w.ndim == 2)
    delta = changed(pipe, {key: DensePatch(torch.ones(dict(parameters(pipe))[key].shape))})
    with pytest.raises(BadRequest, match="what ComfyUI calls the layers of Qwen-Image's text_enc"):
        write_comfyui(every_network(delta, pipe), tmp_path / "a.safetensors", {})


def looked_up(pipe):
    """Maps the names that ComfyUI looks up to (its parameter, first row, rows, swapped)."""
    found = {}
    host = host_of(pipe)
    for part, module in components(pipe).items():
        if part == "transformer":
            found |= of_transformer(host, module)
            continue
        for path, _ in module.named_parameters():
            layer, _, leaf = canonical(path).rpartition(".")
            if part == "unet" and leaf == "weight":
                found[f"lora_unet_{layer.replace('.', '_')}"] = f"unet/{layer}.weight"
            elif part in ENCODERS.get(host.key, {}) and leaf == "weight":
                name = ENCODERS[host.key][part]
                inside = "" if "t5" in name or layer == "text_projection" else "text_model."
                lookup = f"text_encoders.{name}.transformer.{inside}{layer}"
                found[lookup] = f"{part}/{layer}.weight"
    return found


def of_transformer(host, module):
    """Has every parameter by ComfyUI's own name, and the layers of a family's map by diffusers'."""
    found = {}
    own_names = host.original_layers
    for path, _ in module.named_parameters():
        layer, _, leaf = canonical(path).rpartition(".")
        piece = path if own_names is None else own_names.pieces(module)[path]
        if leaf == "weight" and re.match(DIFFUSERS_NAMES.get(host.key, ""), layer):
            found[f"transformer.{layer}"] = piece
        name = piece if own_names is None else piece.name
        found[f"diffusion_model.{re.sub(r'[.](weight|scale)$', '', name)}"] = name
    return found


def loaded(tensors, names):
    """Reads a file as ComfyUI does: changes by (parameter, first row, swapped), and keys taken."""
    changes, taken = [], set()
    for name, place in names.items():
        whole = isinstance(place, str) or place.is_all
        target = place if isinstance(place, str) else place.name
        start, swapped = (0, False) if isinstance(place, str) else (place.start, place.swapped)
        if f"{name}.lora_up.weight" in tensors:
            up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
            scale = float(tensors[f"{name}.alpha"]) / len(down)
            changes.append((target, start, swapped, scale * (up.flatten(1) @ down.flatten(1))))
            taken |= {f"{name}.{each}" for each in ("lora_up.weight", "lora_down.weight", "alpha")}
        if f"{name}.diff" in tensors:
            changes.append((target, start, swapped, tensors[f"{name}.diff"]))
            taken.add(f"{name}.diff")
        if f"{name}.diff_b" in tensors and whole:
            bias = f"{target.removesuffix('.weight').removesuffix('.scale')}.bias"
            changes.append((bias, 0, False, tensors[f"{name}.diff_b"]))
            taken.add(f"{name}.diff_b")
    return changes, taken


def added(whole, changes):
    for target, start, swapped, change in changes:
        value = whole[target]
        own = torch.cat(change.chunk(2)[::-1]) if swapped else change
        rows = value[start : start + len(own)]
        rows += own.reshape(rows.shape)
    return whole


def state_of(pipe, part):
    module = components(pipe)[part]
    return {path: w.detach().clone() for path, w in module.named_parameters()}


def everything(pipe, parts):
    """Changes every parameter of networks: matrices by low rank or whole, all else whole."""
    draw = torch.Generator().manual_seed(3)
    patches = {}
    for number, (key, weight) in enumerate(parameters(pipe)):
        if key.partition("/")[0] not in parts:
            continue
        if weight.ndim == 2 and number % 2 and key.endswith(".weight"):
            up = torch.randn(len(weight), 2, generator=draw)
            patches[key] = LowRankPatch(up, torch.randn(2, weight.shape[1], generator=draw))
        elif key.endswith("token_embedding.weight"):
            rows = torch.randn(1, weight.shape[1], generator=draw)
            patches[key] = RowPatch(torch.tensor([1]), rows)
        else:
            patches[key] = DensePatch(torch.randn(weight.shape, generator=draw))
    return changed(pipe, patches)


def changed(pipe, patches):
    provenance = replace(
        erased("tiny_sd1").provenance, base_sketch=base_sketch(pipe, tuple(patches)), base_prints={}
    )
    return Delta(patches=patches, provenance=provenance)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("family", TRANSFORMERS)
def test_every_parameter_of_a_transformer(tmp_path, family, scale):
    pipe = shared(f"tiny_{family}")
    delta = everything(pipe, {"transformer"})
    path = write_comfyui(every_network(delta, pipe, scale=scale), tmp_path / "a.safetensors", {})
    tensors = load_file(path)
    changes, taken = loaded(tensors, looked_up(pipe))
    assert taken == tensors.keys()
    before = state_of(pipe, "transformer")
    with delta.apply(pipe, scale=scale):
        after = original(host_of(pipe), pipe.transformer, state_of(pipe, "transformer"))
    found = added(original(host_of(pipe), pipe.transformer, before), changes)
    for name, value in after.items():
        assert torch.allclose(found[name], value, **CLOSE), name


@pytest.mark.thorough
def test_every_parameter_of_a_unet_and_a_text_encoder(tmp_path):
    pipe = shared("tiny_sd1")
    delta = everything(pipe, {"unet", "text_encoder"})
    tensors = load_file(write_comfyui(every_network(delta, pipe), tmp_path / "a.safetensors", {}))
    changes, taken = loaded(tensors, looked_up(pipe))
    assert taken == tensors.keys()
    whole = {key: weight.detach().clone() for key, weight in parameters(pipe)}
    found = added(whole, changes)
    with delta.apply(pipe):
        for key, weight in parameters(pipe):
            assert torch.allclose(found[key], weight, **CLOSE), key


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["sd1", *TRANSFORMERS])
def test_a_closed_form_stays_low_rank_and_comes_back(tmp_path, family):
    pipe, delta = shared(f"tiny_{family}"), erased(f"tiny_{family}")
    path = write_comfyui(every_network(delta, pipe), tmp_path / "a.safetensors", {})
    tensors = load_file(path)
    assert not [name for name in tensors if name.endswith((".diff", ".diff_b"))]
    _, taken = loaded(tensors, looked_up(pipe))
    assert taken == tensors.keys()
    again = import_delta(path, pipe, REQUEST).delta
    same(pipe, delta, again)


def same(pipe, delta, again):
    wanted = {}
    with delta.apply(pipe):
        wanted = {key: weight.detach().clone() for key, weight in parameters(pipe)}
    with again.apply(pipe):
        for key, weight in parameters(pipe):
            assert torch.allclose(weight, wanted[key], **CLOSE), key


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["sd1", *TRANSFORMERS])
def test_what_was_written_is_imported_again(tmp_path, family):
    pipe = shared(f"tiny_{family}")
    encoder = {"text_encoder"} & ENCODERS.get(family, {}).keys()
    delta = everything(pipe, {"transformer", "unet"} & components(pipe).keys() | encoder)
    path = write_comfyui(every_network(delta, pipe), tmp_path / "a.safetensors", {})
    same(pipe, delta, import_delta(path, pipe, REQUEST).delta)


def test_what_a_gate_does_not_open_goes_along(tmp_path):
    pipe = shared("tiny_sd1")
    key = "text_encoder/final_layer_norm.bias"
    both = everything(pipe, {"text_encoder"})
    gated = trained_membrane("tiny_sd1")
    sketch = {**gated.provenance.base_sketch, **both.provenance.base_sketch}
    delta = replace(
        gated,
        ungated={key: both.patches[key]},
        provenance=replace(gated.provenance, base_sketch=sketch, base_prints={}),
    )
    tensors = load_file(write_comfyui(every_network(delta, pipe), tmp_path / "a.safetensors", {}))
    name = "text_encoders.clip_l.transformer.text_model.final_layer_norm.diff_b"
    assert torch.equal(tensors[name], both.patches[key].difference)
    assert any(each.startswith("lora_unet_") for each in tensors)


def test_a_rank_cuts_what_is_dense(tmp_path):
    pipe = shared("tiny_sd1")
    key = "unet/mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    weight = dict(parameters(pipe))[key]
    dense = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    (layers,) = every_network(changed(pipe, {key: DensePatch(dense)}), pipe, rank=2)
    assert (layers.rank, len(layers.full)) == (2, 0)
    assert 0 < layers.lost < 1
    (whole,) = every_network(changed(pipe, {key: DensePatch(dense)}), pipe)
    assert (whole.rank, len(whole.full), whole.lost) == (0, 1, 0)


def test_the_vae_is_refused(tmp_path):
    pipe = shared("tiny_sd1")
    key = next(key for key, _ in parameters(pipe) if key.startswith("vae/") and "conv" in key)
    weight = dict(parameters(pipe))[key]
    delta = changed(pipe, {key: DensePatch(torch.ones(weight.shape))})
    with pytest.raises(BadRequest, match="the delta changes vae, and ComfyUI's LoRA loader"):
        write_comfyui(every_network(delta, pipe), tmp_path / "a.safetensors", {})


@pytest.mark.parametrize("family", ["cogview4", "sana"])
def test_families_whose_names_in_comfyui_are_not_known_are_refused_by_name(tmp_path, family):
    pipe = shared(f"tiny_{family}")
    key = next(key for key, w in parameters(pipe) if key.startswith("transformer/") and w.ndim == 2)
    delta = changed(pipe, {key: DensePatch(torch.ones(dict(parameters(pipe))[key].shape))})
    with pytest.raises(BadRequest, match=f"looks up layers of {host_of(pipe).title}; export"):
        write_comfyui(every_network(delta, pipe), tmp_path / "a.safetensors", {})


@pytest.mark.parametrize("spelled", ["diffusion_model.{}", "lora_unet_{}"])
def test_flux_loras_by_the_original_names_are_taken_apart(tmp_path, spelled):
    from safetensors.torch import save_file

    pipe = shared("tiny_flux")
    draw = torch.Generator().manual_seed(0)
    layer = "single_blocks.0.linear1"
    name = spelled.format(layer if "." in spelled else layer.replace(".", "_"))
    up, down = torch.randn(224, 2, generator=draw), torch.randn(2, 32, generator=draw)
    tensors = {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_down.weight": down,
        f"{name}.alpha": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    patches = import_delta(tmp_path / "a.safetensors", pipe, REQUEST).delta.patches
    block, whole = "transformer/single_transformer_blocks.0", 0.5 * up @ down
    for start, rows, path in (
        (0, 32, "attn.to_q"), (32, 32, "attn.to_k"), (64, 32, "attn.to_v"), (96, 128, "proj_mlp")
    ):  # fmt: skip
        patch = patches[f"{block}.{path}.weight"]
        assert torch.allclose(patch.up @ patch.down, whole[start : start + rows], atol=1e-5)
    assert len(patches) == 4
