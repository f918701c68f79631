"""DoRA files: what peft merges and LyCORIS defines, as a dense change of a known base."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from efface.deltas.patches import DensePatch
from efface.errors import BadDelta
from efface.exchange.imports import import_delta
from efface.hosts.components import canonical
from tests.conftest import host, shared
from tests.exchange.conftest import KEY, LAYER, REQUEST, matrices

PLACE = f"lora_unet_{LAYER.replace('.', '_')}"
CONV = "mid_block.resnets.0.conv1"


@pytest.fixture(scope="module")
def trained():
    """Trains a DoRA of linear layers and convolutions by chance, with alpha and rsLoRA."""
    pipe, draw = host("tiny_sd1"), torch.Generator().manual_seed(0)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        use_dora=True,
        target_modules=["to_k", "conv1", "ff.net.2"],
    )
    pipe.unet.add_adapter(config)
    for name, weight in pipe.unet.named_parameters():
        if "lora_" in name:
            weight.data += 0.3 * torch.randn(weight.shape, generator=draw) * weight.abs().mean()
            weight.data += 0.02 * torch.randn(weight.shape, generator=draw)
    return pipe, config


def merged(pipe):
    """Gives by canonical path what peft makes of the weights."""
    layers = {n: each for n, each in pipe.unet.named_modules() if isinstance(each, LoraLayer)}
    found = {}
    for name, layer in layers.items():
        layer.merge()
        found[f"unet/{canonical(name)}.weight"] = layer.get_base_layer().weight.detach().clone()
        layer.unmerge()
    return found


def read(tensors, base, folder, header=None):
    path = folder / "file.safetensors"
    save_file({name: each.detach().clone() for name, each in tensors.items()}, path, header)
    return import_delta(path, base, REQUEST)


def refusal(tensors, base, folder, header=None):
    with pytest.raises(BadDelta) as caught:
        read(tensors, base, folder, header)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check_equal(base, found, wanted):
    assert found.layout == "DoRA"
    assert set(found.delta.patches) == set(wanted)
    with found.delta.apply(base):
        for key, value in wanted.items():
            weight = base.unet.get_parameter(key.partition("/")[2])
            assert torch.allclose(weight, value, atol=1e-6), key


@pytest.mark.parametrize("layout", ["peft", "diffusers", "diffusers with a config"])
def test_what_peft_merges_is_what_is_read(base, trained, tmp_path, layout):
    pipe, config = trained
    state = get_peft_model_state_dict(pipe.unet)
    wanted = merged(pipe)
    assert f"unet/{CONV}.weight" in wanted
    if layout == "peft":
        save_file(
            {f"base_model.model.{n}": each.contiguous() for n, each in state.items()},
            tmp_path / "adapter_model.safetensors",
        )
        config.save_pretrained(tmp_path)
    else:
        alphas = {
            f"{name.removesuffix('.lora_A.weight')}.alpha": torch.tensor(6.0 * 4**0.5)
            for name in state
            if name.endswith(".lora_A.weight")
        }
        told = pipe.unet.peft_config["default"].to_dict()
        StableDiffusionPipeline.save_lora_weights(
            tmp_path,
            unet_lora_layers=state if layout == "diffusers with a config" else state | alphas,
            unet_lora_adapter_metadata=told if layout == "diffusers with a config" else None,
        )
    found = import_delta(tmp_path, base, REQUEST)
    check_equal(base, found, wanted)
    assert "of DoRA, whose change is not a sum" in found.notes[0]


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("layer", [LAYER, CONV])
def test_lycoris_has_magnitudes_of_rows_or_of_columns(base, tmp_path, layer, axis):
    weight = base.unet.get_parameter(f"{layer}.weight").detach()
    draw = torch.Generator().manual_seed(1)
    down = torch.randn(2, *weight.shape[1:], generator=draw)
    up = 0.1 * torch.randn(len(weight), 2, *[1] * (weight.ndim - 2), generator=draw)
    count = len(weight) if axis == "rows" else weight.shape[1]
    scale = 1 + torch.rand(count, generator=draw)
    # One row or column after the other, from the definition.
    wanted = weight + 3 / 2 * torch.einsum("or,ri...->oi...", up.flatten(1), down)
    for place in range(count):
        one = (place,) if axis == "rows" else (slice(None), place)
        wanted[one] *= scale[place] / (wanted[one].square().sum().sqrt() + 1.1920929e-07)
    shape = (count, *[1] * (weight.ndim - 1)) if axis == "rows" else (1, count)
    shape += (1,) * (weight.ndim - len(shape))
    name = f"lora_unet_{layer.replace('.', '_')}"
    tensors = {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_down.weight": down,
        f"{name}.alpha": torch.tensor(3.0),
        f"{name}.dora_scale": scale.reshape(shape),
    }
    check_equal(base, read(tensors, base, tmp_path), {f"unet/{layer}.weight": wanted})


def test_magnitudes_that_diffusers_renamed_and_text_encoders(base, tmp_path):
    text = "encoder.layers.0.self_attn.q_proj"
    weight = dict(base.text_encoder.named_parameters())
    weight = next(each for name, each in weight.items() if name.endswith(f"{text}.weight")).detach()
    up, down = torch.ones(len(weight), 1), torch.ones(1, weight.shape[1])
    name = f"text_encoder.text_model.{text}"
    tensors = {
        f"{name}.lora_B.weight": up,
        f"{name}.lora_A.weight": down,
        f"{name}.lora_magnitude_vector.default.weight": torch.full((len(weight), 1), 2.0),
    }
    (patch,) = read(tensors, base, tmp_path).delta.patches.values()
    assert isinstance(patch, DensePatch)
    rows = (weight + patch.difference).norm(dim=1)
    assert torch.allclose(rows, torch.full_like(rows, 2.0), atol=1e-5)


@pytest.mark.parametrize("scale", ["rows", "columns"])
def test_layers_of_several_are_taken_apart_by_rows_alone(tmp_path, scale):
    pipe, draw = shared("tiny_flux"), torch.Generator().manual_seed(0)
    name = "diffusion_model.single_blocks.0.linear1"
    magnitude = torch.rand(224, 1, generator=draw) if scale == "rows" else torch.rand(1, 32)
    tensors = {
        f"{name}.lora_up.weight": torch.randn(224, 2, generator=draw),
        f"{name}.lora_down.weight": torch.randn(2, 32, generator=draw),
        f"{name}.dora_scale": magnitude,
    }
    if scale == "columns":
        assert f"{name}.dora_scale" in refusal(tensors, pipe, tmp_path)
        return
    patches = read(tensors, pipe, tmp_path).delta.patches
    block = "single_transformer_blocks.0"
    for start, rows, path in (
        (0, 32, "attn.to_q"), (32, 32, "attn.to_k"), (64, 32, "attn.to_v"), (96, 128, "proj_mlp")
    ):  # fmt: skip
        weight = pipe.transformer.get_parameter(f"{block}.{path}.weight").detach()
        after = weight + patches[f"transformer/{block}.{path}.weight"].difference
        assert torch.allclose(after.norm(dim=1), magnitude[start : start + rows, 0], atol=1e-5)
    assert len(patches) == 4


def layer(base, **others):
    up, down = matrices(base)
    held = {"lora_up.weight": up, "lora_down.weight": down, **others}
    return {f"{PLACE}.{name}": tensor for name, tensor in held.items()}


def test_what_is_not_one_dora_is_refused(base, tmp_path):
    weight = base.unet.get_parameter(f"{LAYER}.weight").detach()
    rows = torch.ones(len(weight), 1)
    said = refusal(layer(base, dora_scale=torch.ones(1, 3)), base, tmp_path)
    assert said.startswith(
        f"'{PLACE}.dora_scale' is DoRA's magnitude of {KEY} and has shape (1, 3)"
    )
    twice = layer(base, dora_scale=rows, lora_magnitude_vector=rows[:, 0])
    assert "two magnitudes of one layer" in refusal(twice, base, tmp_path)
    said = refusal({f"{PLACE}.dora_scale": rows}, base, tmp_path)
    assert f"'{PLACE}.dora_scale' is of DoRA without a LoRA's two matrices" in said
    both = layer(base, dora_scale=rows, diff=weight)
    assert f"{KEY} by DoRA and by something else" in refusal(both, base, tmp_path)
    edited = layer(base, dora_scale=rows) | {f"{LAYER}.weight": weight * 2}
    assert "DoRA and by something else" in refusal(edited, base, tmp_path)
    loha = layer(base, dora_scale=rows) | {f"{PLACE}.hada_w1_a": rows}
    assert "is of LoHa" in refusal(loha, base, tmp_path)
    assert "not finite" in refusal(layer(base, dora_scale=rows / 0), base, tmp_path)
    assert "a layout that is not known" in refusal(layer(base, magnitude=rows), base, tmp_path)


def test_rows_without_a_direction_are_refused(base, tmp_path):
    weight = base.unet.get_parameter(f"{LAYER}.weight").detach()
    up = torch.cat([torch.eye(len(weight))[:1], torch.zeros(len(weight) - 1, len(weight))]).T
    tensors = {
        f"{PLACE}.lora_up.weight": up[:, :1],
        f"{PLACE}.lora_down.weight": -weight[:1],
        f"{PLACE}.lora_magnitude_vector": torch.ones(len(weight)),
    }
    assert "rows are 0 and have no direction" in refusal(tensors, base, tmp_path)


def test_a_config_and_its_tensors_agree(base, tmp_path):
    rows = torch.ones(len(base.unet.get_parameter(f"{LAYER}.weight")))
    up, down = matrices(base)
    tensors = {f"unet.{LAYER}.lora_B.weight": up, f"unet.{LAYER}.lora_A.weight": down}
    magnitude = {f"unet.{LAYER}.lora_magnitude_vector": rows}
    said = '{"unet.r": 4, "unet.lora_alpha": 4, "unet.use_dora": '
    header = {"lora_adapter_metadata": f"{said}true}}"}
    assert f"no magnitude of unet.{LAYER}" in refusal(tensors, base, tmp_path, header)
    header = {"lora_adapter_metadata": f"{said}false}}"}
    assert "use_dora = False" in refusal(tensors | magnitude, base, tmp_path, header)


def test_membranes_of_dora_are_refused(base, tmp_path):
    rows = torch.ones(len(base.unet.get_parameter(f"{LAYER}.weight")), 1)
    header = {"prompts": "pistol", "alpha": "4", "rank": "4"}
    said = refusal(layer(base, dora_scale=rows), base, tmp_path, header)
    assert f"{KEY} is changed by DoRA, which no gate opens in part" in said
