"""Toy pipelines in both layouts, parts by role, canonical names, and every broken folder."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface.errors import BadDelta, BadModel
from efface.hosts import loading
from efface.hosts.components import canonical, components, find, is_key_value
from efface.hosts.families import layout
from efface.hosts.roles import ROLES, members
from efface.hosts.toys import WORDS, tiny_tokenizer
from tests.conftest import host


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "tiny"
    host("tiny_sd2").save_pretrained(place)
    return place


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "tiny")


def test_known_words_are_one_token_and_others_are_spelled():
    tokenizer = tiny_tokenizer()
    assert all(len(tokenizer(word)["input_ids"]) == 3 for word in WORDS)
    spelled = tokenizer("zebra")["input_ids"][1:-1]
    assert len(spelled) > 1
    assert "".join(tokenizer.convert_ids_to_tokens(spelled)) == "zebra</w>"


def test_layouts_differ_as_the_real_ones_do(tiny_sd1, tiny_sd2):
    assert (layout(tiny_sd1), layout(tiny_sd2)) == ("sd1", "sd2")
    assert tiny_sd1.text_encoder.config.hidden_act == "quick_gelu"
    assert tiny_sd2.text_encoder.config.hidden_act == "gelu"
    assert tiny_sd1.tokenizer.pad_token_id == tiny_sd1.tokenizer.eos_token_id
    assert tiny_sd2.tokenizer.pad_token_id != tiny_sd2.tokenizer.eos_token_id
    heads = {m.heads for m in tiny_sd2.unet.modules() if hasattr(m, "to_q")}
    assert len(heads) == 2
    widths = [dict(pipe.unet.named_modules()) for pipe in (tiny_sd1, tiny_sd2)]
    kinds = {type(m["mid_block.attentions.0.proj_in"]).__name__ for m in widths}
    assert kinds == {"Conv2d", "Linear"}


def test_a_toy_draws_a_picture_that_depends_on_the_prompt(tiny_sd1):
    pictures = [
        tiny_sd1(
            prompt,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        for prompt in ("a cat", "a cat", "a red house")
    ]
    assert pictures[0].shape[:2] == (1, 3)
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.allclose(pictures[0], pictures[2])


def test_the_seed_decides_every_weight():
    one, same, other = host("tiny_sd1"), host("tiny_sd1"), host("tiny_sd1", seed=1)
    pairs = zip(one.unet.parameters(), same.unet.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.unet.conv_in.weight, other.unet.conv_in.weight)


def test_every_role_finds_parameters_and_key_value_finds_eight_layers_twice(tiny_sd1):
    assert all(members(tiny_sd1, role) for role in ROLES)
    attention = [m for n, m in tiny_sd1.unet.named_modules() if n.endswith("attn2")]
    found = members(tiny_sd1, "key_value")
    assert len(found) == 2 * len(attention)
    assert found.keys() == find(tiny_sd1, "unet/key_value").keys()
    rest = members(tiny_sd1, "unconditional").keys() | members(tiny_sd1, "cross_attention").keys()
    assert rest == members(tiny_sd1, "unet").keys()


def test_names_outlive_library_versions():
    assert (
        canonical("text_model.encoder.layers.0.mlp.fc1.weight") == "encoder.layers.0.mlp.fc1.weight"
    )
    assert canonical("a.attn2.to_k.base_layer.weight") == "a.attn2.to_k.weight"
    assert is_key_value("down.attn2.to_v.weight")
    assert not is_key_value("down.attn1.to_v.weight")
    assert not is_key_value("down.attn2.to_q.weight")


def test_components_of_a_pipeline_and_of_a_network(tiny_sd1):
    assert set(components(tiny_sd1)) == {"unet", "vae", "text_encoder"}
    assert list(components(tiny_sd1.vae)) == ["model"]
    with pytest.raises(BadDelta, match="no parameter 'unet/nothing'"):
        find(tiny_sd1, "unet/nothing")


@pytest.mark.thorough
def test_a_whole_folder_loads_as_it_was_saved(folder):
    loaded, saved = loading.load(folder), host("tiny_sd2")
    for name, network in components(saved).items():
        for one, other in zip(
            network.parameters(), components(loaded)[name].parameters(), strict=True
        ):
            assert torch.equal(one, other)
    assert loaded.tokenizer("a pistol")["input_ids"] == saved.tokenizer("a pistol")["input_ids"]
    assert loading.load(folder, dtype=torch.float16).unet.dtype == torch.float16


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def cut(folder, share):
    path = folder / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def reshaped(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:, :2].contiguous()
    save_file(tensors, folder / WEIGHTS)


def without_a_tensor(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors["conv_in.weight"]
    save_file(tensors, folder / WEIGHTS)


def reconfigured(folder):
    path = folder / "vae" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"latent_channels": "many"}))


BREAKS = {
    "is missing": lambda folder: (folder / "model_index.json").unlink(),
    "not readable as JSON": lambda folder: (folder / "model_index.json").write_text("{"),
    "lists no parts": lambda folder: (folder / "model_index.json").write_text("{}"),
    "has no folder 'vae'": lambda folder: shutil.rmtree(folder / "vae"),
    "holds no safetensors file": lambda folder: (folder / WEIGHTS).unlink(),
    "unet/config.json is missing": lambda folder: (folder / "unet/config.json").unlink(),
    "cut short or damaged": lambda folder: cut(folder, 0.9),
    "cut short within its header": lambda folder: cut(folder, 0.001),
    "is damaged": lambda folder: (folder / WEIGHTS).write_bytes(b"abc"),
    r"has shape \(16, 2, 3, 3\)": reshaped,
    "lacks the tensor 'conv_in.weight'": without_a_tensor,
    "does not describe a AutoencoderKL": reconfigured,
}


@pytest.mark.parametrize("message", BREAKS)
def test_a_broken_folder_is_refused_by_what_is_wrong(copied, message):
    BREAKS[message](copied)
    with pytest.raises(BadModel, match=message):
        loading.load(copied)


def test_a_header_that_is_too_long_for_its_file_is_refused(copied):
    (copied / WEIGHTS).write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(BadModel, match="cut short"):
        loading.load(copied)


def test_a_variant_is_found(copied):
    path = copied / WEIGHTS
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    from efface.hosts.folders import check_folder

    assert check_folder(copied) == "fp16"


@pytest.mark.parametrize("name", ["./nowhere", "emojy", "/not/there"])
def test_a_name_that_is_nothing_is_refused(name):
    with pytest.raises(BadModel, match="neither a bundled model"):
        loading.load(name)


def test_a_pipeline_without_a_denoiser_is_refused(tiny_sd1):
    from types import SimpleNamespace

    partial = SimpleNamespace(vae=tiny_sd1.vae, scheduler=1, tokenizer=1, text_encoder=1)
    with pytest.raises(BadModel, match="without unet or transformer"):
        loading._check_parts(partial, "it")
