"""Files as strangers keep them: other endings and numbers, levels around, shards, processors."""

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from efface.errors import BadDelta, BadModel, BadRequest, EffaceError, MissingInput, ModelCollapsed
from efface.exchange.imports import import_delta
from efface.hosts.shards import weight_set
from efface.hosts.streaming import stream
from efface.runs.checks import inspect
from tests.conftest import host
from tests.exchange.conftest import KEY, LAYER, REQUEST, erased, matrices

NAME = f"{LAYER}.weight"
PLACE = f"lora_unet_{LAYER.replace('.', '_')}"


def lora(up, down, name=PLACE):
    return {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}


def refused(path, base, kind=EffaceError, **options):
    with pytest.raises(kind) as caught:
        import_delta(path, base, REQUEST, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def weight(base):
    return base.unet.get_parameter(NAME).detach()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_eight_bits_are_read_as_what_they_are(base, weight, tmp_path, dtype):
    path, packed = tmp_path / "f8.safetensors", (1.3 * weight).to(dtype)
    save_file({NAME: packed}, path)
    patch = import_delta(path, base, REQUEST).delta.patches[KEY]
    moved = packed.float() != weight.to(dtype).float()
    assert torch.equal(patch.difference, torch.where(moved, packed.float() - weight, 0.0))
    assert moved.sum() > 0.9 * moved.numel()
    save_file({NAME: weight.to(dtype)}, path)
    assert "differs from the base" in refused(path, base)
    up, down = (each.to(dtype) for each in matrices(base))
    save_file(lora(up, down), path)
    patch = import_delta(path, base, REQUEST).delta.patches[KEY]
    assert torch.allclose(patch.up @ patch.down, up.float() @ down.float(), atol=1e-6)


@pytest.mark.parametrize("odd", ["sparse", "meta", "complex", "int8 layers"])
def test_tensors_that_hold_no_plain_numbers_are_refused(base, weight, tmp_path, odd):
    up, down = matrices(base)
    held = {
        "sparse": {NAME: weight.to_sparse()},
        "meta": {NAME: weight.to("meta")},
        "complex": {NAME: weight.to(torch.complex64)},
        "int8 layers": lora((9 * up).to(torch.int8), down),
    }[odd]
    torch.save(held, tmp_path / "odd.pt")
    assert next(iter(held)) in refused(tmp_path / "odd.pt", base, BadDelta)


@pytest.mark.parametrize("name", ["a.SAFETENSORS", "a.sft", "a", "a.weights"])
def test_safetensors_are_known_by_their_content(base, tmp_path, name):
    up, down = matrices(base)
    save_file(lora(up, down), tmp_path / name)
    patch = import_delta(tmp_path / name, base, REQUEST).delta.patches[KEY]
    assert torch.equal(patch.up @ patch.down, up @ down)


def test_packed_files_are_named(base, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    assert "is a GGUF file" in refused(tmp_path / "model.gguf", base, BadDelta)


@pytest.mark.parametrize("level", ["ema_unet", "student", "pipe.unet", "generator.model"])
def test_a_level_around_all_names_is_left_out(base, weight, tmp_path, level):
    state = {f"{level}.{name}": w.detach() for name, w in base.unet.named_parameters()}
    state[f"{level}.{NAME}"] = 1.1 * weight
    torch.save({**state, "step": 7}, tmp_path / "trained.pt")
    assert list(import_delta(tmp_path / "trained.pt", base, REQUEST).delta.patches) == [KEY]


@pytest.mark.parametrize("where", ["m-1.bin", "m-2.bin"])
def test_two_shards_that_contradict_each_other_are_refused(base, weight, tmp_path, where):
    bias = base.unet.conv_in.bias.detach()
    torch.save({NAME: 2 * weight, "conv_in.bias": bias + 1}, tmp_path / "m-1.bin")
    torch.save({NAME: 3 * weight, "conv_out.bias": bias[:4]}, tmp_path / "m-2.bin")
    index = {NAME: where, "conv_in.bias": "m-1.bin", "conv_out.bias": "m-2.bin"}
    (tmp_path / "m.bin.index.json").write_text(json.dumps({"weight_map": index}))
    said = refused(tmp_path, base, BadDelta)
    assert NAME in said
    assert "in two files" in said
    (tmp_path / "m-2.bin").unlink()
    assert "m-2.bin is missing" in refused(tmp_path, base, BadDelta)


def test_a_model_whose_shards_contradict_each_other_is_refused(tmp_path):
    for number in (1, 2):
        save_file({"a": torch.full((2,), float(number))}, tmp_path / f"m-{number}.safetensors")
    index = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(BadModel, match="'a' is in two shards"):
        weight_set(tmp_path).tensors()


def test_adapters_in_folders_of_their_own_must_be_named(base, tmp_path):
    up, down = matrices(base)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        save_file(lora(up, down), tmp_path / name / "adapter_model.safetensors")
    said = refused(tmp_path, base, MissingInput)
    assert "first/, second/" in said
    assert import_delta(tmp_path / "first", base, REQUEST).delta.patches.keys() == {KEY}


def test_weights_of_a_network_with_an_adapter_in_it_say_that_alpha_is_lost(base, tmp_path):
    trained = host("tiny_sd1")
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["to_k"], init_lora_weights=False)
    trained.unet.add_adapter(config)
    torch.save(trained.unet.state_dict(), tmp_path / "unet.pt")
    (note,) = import_delta(tmp_path / "unet.pt", base, REQUEST).notes
    assert "alpha is taken as the rank" in note
    config.save_pretrained(tmp_path)
    delta = import_delta(tmp_path / "unet.pt", base, REQUEST).delta
    theirs = trained.unet.get_submodule(LAYER).get_delta_weight("default")
    assert torch.allclose(delta.difference(KEY, torch.zeros_like(theirs)), theirs, atol=1e-5)


@pytest.mark.parametrize("names", [("<pistol>",), ("emb_params",), ("clip_l", "clip_g")])
def test_added_words_are_no_edit_of_weights(base, tmp_path, names):
    save_file({name: torch.ones(2, 32) for name in names}, tmp_path / "words.safetensors")
    said = refused(tmp_path / "words.safetensors", base, BadDelta)
    assert "textual inversion" in said
    assert "pipe.load_textual_inversion" in said


def test_layers_that_multiply_out_to_nothing_are_refused_by_why(base, tmp_path):
    (up, down), path = matrices(base), tmp_path / "zero.safetensors"
    save_file(lora(0 * up, down), path)
    assert "multiply out to 0" in refused(path, base, BadDelta)
    save_file({**lora(up, down), f"{PLACE}.alpha": torch.tensor(0.0)}, path)
    assert "alpha' is 0" in refused(path, base, BadDelta)


def placed(transformer, name):
    weight = transformer.get_parameter(f"transformer_blocks.0.attn.{name}.weight")
    return len(weight), weight.shape[1]


def test_flux_layers_in_processors_as_xlabs_writes_them(tmp_path):
    pipe = host("tiny_flux")
    rows, width = placed(pipe.transformer, "to_q")
    draw = torch.Generator().manual_seed(0)
    up, down = torch.randn(3 * rows, 2, generator=draw), torch.randn(2, width, generator=draw)
    tensors = {}
    for name in ("double_blocks.0.processor.qkv_lora2", "single_blocks.0.processor.qkv_lora"):
        tensors |= {f"{name}.up.weight": up, f"{name}.down.weight": down}
    save_file({k: t.clone() for k, t in tensors.items()}, tmp_path / "xlabs.safetensors")
    patches = import_delta(tmp_path / "xlabs.safetensors", pipe, REQUEST).delta.patches
    layers = [f"transformer_blocks.0.attn.add_{each}_proj" for each in "qkv"]
    layers += [f"single_transformer_blocks.0.attn.to_{each}" for each in "qkv"]
    assert patches.keys() == {f"transformer/{layer}.weight" for layer in layers}
    for number, layer in enumerate(layers):
        patch, part = patches[f"transformer/{layer}.weight"], number % 3
        assert torch.equal(patch.up @ patch.down, up[part * rows : (part + 1) * rows] @ down)


@pytest.mark.parametrize("before", ["base_model.model.", "diffusion_model.", "module.", ""])
def test_flux_layers_by_their_original_names_behind_any_prefix(tmp_path, before):
    pipe = host("tiny_flux")
    rows, width = placed(pipe.transformer, "to_q")
    tensors = lora(
        torch.ones(3 * rows, 2), torch.ones(2, width), f"{before}double_blocks.0.img_attn.qkv"
    )
    save_file(tensors, tmp_path / "file.safetensors")
    assert len(import_delta(tmp_path / "file.safetensors", pipe, REQUEST).delta.patches) == 3


def test_kohya_calls_the_t5_of_flux_its_third_encoder(tmp_path):
    pipe, layer = host("tiny_flux"), "encoder.block.0.layer.0.SelfAttention.q"
    weight = pipe.text_encoder_2.get_parameter(f"{layer}.weight")
    up, down = torch.ones(len(weight), 1), torch.ones(1, weight.shape[1])
    save_file(lora(up, down, f"lora_te3_{layer.replace('.', '_')}"), tmp_path / "t5.safetensors")
    found = import_delta(tmp_path / "t5.safetensors", pipe, REQUEST).delta.patches
    assert list(found) == [f"text_encoder_2/{layer}.weight"]


def test_an_import_that_wrecks_the_model_is_not_told_to_keep_more(base):
    delta = erased("tiny_sd1")
    imported = replace(delta, provenance=replace(delta.provenance, method="import"))
    with pytest.raises(ModelCollapsed, match="give the base that the file was made from"):
        inspect(base, imported.scaled(1000.0), REQUEST)


def test_lora_tensors_that_are_no_matrices_are_refused(base, tmp_path):
    save_file(lora(torch.tensor(1.0), torch.tensor(1.0)), tmp_path / "numbers.safetensors")
    assert "are no matrices" in refused(tmp_path / "numbers.safetensors", base, BadDelta)


def test_a_membrane_of_another_rank_than_its_header_says_is_refused(base, tmp_path):
    header = {"rank": "9", "alpha": "1.0", "prompts": "pistol"}
    save_file(lora(*matrices(base)), tmp_path / "spm.safetensors", metadata=header)
    assert "has rank 9 and its tensors have 4" in refused(tmp_path / "spm.safetensors", base)


@pytest.mark.parametrize("options", [{"gate": "open"}, {"unconditional": "both"}])
def test_choices_that_there_are_not_are_refused(base, tmp_path, options):
    save_file(lora(*matrices(base)), tmp_path / "file.safetensors")
    said = refused(tmp_path / "file.safetensors", base, BadRequest, **options)
    assert next(iter(options.values())) in said
    with pytest.raises(BadRequest, match=r"efface\.request"):
        import_delta(tmp_path / "file.safetensors", base, "pistol")


def test_a_model_that_runs_from_its_folder_reads_no_files(tmp_path):
    host("tiny_sd1").save_pretrained(tmp_path / "model")
    with pytest.raises(BadModel, match=r"load it whole: efface\.load"):
        import_delta(tmp_path / "file.safetensors", stream(tmp_path / "model"), REQUEST)
