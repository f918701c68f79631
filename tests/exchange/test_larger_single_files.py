"""Checkpoints in one file of Stable Diffusion 2.x and XL: read back, edited and written exactly."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

import efface
from efface.deltas.delta import Delta
from efface.exchange.kohya_names import original_name
from efface.exchange.single_files import edited_single_file
from efface.hosts.families import layout
from tests.conftest import host
from tests.exchange.test_single_files import in_vae

pytestmark = pytest.mark.slow

IN_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OUTSIDE = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def in_open_clip(encoder):
    """Names a text encoder as OpenCLIP does: one matrix for queries, keys and values."""
    weights = {path.removeprefix("text_model."): w for path, w in encoder.state_dict().items()}
    width = encoder.config.hidden_size
    projection = weights.pop("text_projection.weight", torch.eye(width))
    found = {"text_projection": projection.T}
    for path, weight in weights.items():
        if path in OUTSIDE:
            found[OUTSIDE[path]] = weight
            continue
        block, inside = path.removeprefix("encoder.layers.").split(".", 1)
        module, _, kind = inside.rpartition(".")
        place = f"transformer.resblocks.{block}"
        if module.endswith("q_proj"):
            three = [f"encoder.layers.{block}.self_attn.{n}_proj.{kind}" for n in "qkv"]
            found[f"{place}.attn.in_proj_{kind}"] = torch.cat([weights[each] for each in three])
        elif not module.endswith(("k_proj", "v_proj")):
            found[f"{place}.{IN_BLOCK[module]}.{kind}"] = weight
    return found


def in_clip(encoder):
    return {
        f"transformer.text_model.{path.removeprefix('text_model.')}": weight
        for path, weight in encoder.state_dict().items()
    }


def in_one_file(pipe):
    found = {}
    for path, weight in pipe.unet.state_dict().items():
        module, _, kind = path.rpartition(".")
        found[f"model.diffusion_model.{original_name(module, pipe.unet.config)}.{kind}"] = weight
    for path, weight in pipe.vae.state_dict().items():
        found[f"first_stage_model.{in_vae(path)}"] = weight
    if layout(pipe) == "sdxl":
        encoders = {
            "conditioner.embedders.0.": in_clip(pipe.text_encoder),
            "conditioner.embedders.1.model.": in_open_clip(pipe.text_encoder_2),
        }
    else:
        encoders = {"cond_stage_model.model.": in_open_clip(pipe.text_encoder)}
    for prefix, weights in encoders.items():
        found |= {f"{prefix}{name}": weight for name, weight in weights.items()}
    return {name: weight.detach().clone().contiguous() for name, weight in found.items()}


def pipeline(family):
    """Builds a toy; XL's second encoder is wider, as converters tell the two apart by width."""
    pipe = host(f"tiny_{family}")
    if family == "sdxl":
        told = {**pipe.text_encoder_2.config.to_dict(), "hidden_size": 48, "projection_dim": 48}
        widths = {"cross_attention_dim": 80, "projection_class_embeddings_input_dim": 96}
        config = {**pipe.unet.config, **widths, "_use_default_values": []}
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(0)
            second = CLIPTextModelWithProjection(CLIPTextConfig(**told)).eval()
            pipe.register_modules(
                text_encoder_2=second, unet=UNet2DConditionModel.from_config(config).eval()
            )
    return pipe


@pytest.fixture(scope="module", params=["sd2", "sdxl"])
def place(request, tmp_path_factory):
    """A single file, and a folder with configs and tokenizers but no weights."""
    place, pipe = tmp_path_factory.mktemp(request.param), pipeline(request.param)
    pipe.save_pretrained(place / "config")
    for file in (place / "config").rglob("*.safetensors"):
        file.unlink()
    save_file(in_one_file(pipe), place / "model.safetensors")
    return request.param, place, pipe


def test_a_file_gives_the_pipeline_that_it_was_made_of_and_takes_an_edit(place, tmp_path):
    family, folder, pipe = place
    file, out = folder / "model.safetensors", tmp_path / "edited.safetensors"
    loaded = efface.load(file, config=folder / "config")
    assert layout(loaded) == family
    for name, network in pipe.components.items():
        if isinstance(network, torch.nn.Module):
            found = loaded.components[name].state_dict()
            for path, weight in network.state_dict().items():
                assert torch.equal(found[path], weight), (name, path)
    delta = efface.erase(loaded, "pistol", keep=["cat"], method="uce").delta
    names = edited_single_file(file, delta, loaded, out)
    before, after = load_file(file), load_file(out)
    assert {n for n in before if not torch.equal(before[n], after[n])} == set(names)
    edited = efface.load(out, config=folder / "config")
    with delta.apply(loaded):
        for path, weight in loaded.unet.state_dict().items():
            assert torch.equal(edited.unet.state_dict()[path], weight), path


def test_a_command_edits_such_a_file_and_another_tool_reads_the_export(place, tmp_path):
    from efface.cli.main import main

    _, folder, _ = place
    asked = ["--model", folder / "model.safetensors", "--config", folder / "config"]
    erase = ["erase", "uce", *asked, "--concept", "pistol", "--keep", "cat", "--no-evaluate"]
    run, lora = tmp_path / "run", tmp_path / "lora.safetensors"

    def done(*words):
        return main([str(word) for word in words])

    assert done(*erase, "--out", run) == 0
    assert done("verify", run) == 0, "its configs are those of the run"
    assert done("rerun", run) == 0
    assert done("export", run, "--as", "kohya", "--out", lora, *asked) == 0
    back = ("import", lora, *asked, "--concept", "pistol", "--out", tmp_path / "back")
    assert done(*back) == 0
    assert Delta.load(tmp_path / "back").keys
