"""SPM's published layout: names, shapes and header, read by stock diffusers and by import."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from efface.errors import BadRequest
from efface.exchange.imports import import_delta
from efface.exchange.lora_files import write_diffusers, write_kohya
from efface.exchange.low_rank import Layers, layers_of
from efface.exchange.spm_files import write_spm
from tests.exchange.conftest import REQUEST, predicted, with_delta
from tests.methods.trained import one_step

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
FACTS = {"base_model": "tiny"}


@pytest.fixture
def membrane(pipe):
    """A membrane that is always open, as one is without its gate."""
    made = one_step("spm", pipe, anchors=0, optimiser="adam", learning_rate=0.05).delta
    return replace(made, gate=None)


def written(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_names_shapes_and_header_are_the_published_ones(pipe, membrane, tmp_path):
    path = tmp_path / "pistol.safetensors"
    tensors, header = written(
        write_spm(layers_of(membrane, pipe), path, FACTS, prompts=["pistol", "gun"])
    )
    assert (header["prompts"], header["rank"], header["alpha"]) == ("pistol,gun", "1", "1.0")
    assert len(tensors) == 3 * len(membrane.patches)
    weights = dict(pipe.unet.named_parameters())
    for key in membrane.patches:
        path_in_net = key.removeprefix("unet/").removesuffix(".weight")
        name = "lora_unet_" + path_in_net.replace(".", "_")
        weight = weights[f"{path_in_net}.weight"]
        tail = tuple(weight.shape[2:])
        assert tensors[f"{name}.lora_down.weight"].shape == (1, weight.shape[1], *tail)
        assert tensors[f"{name}.lora_up.weight"].shape == (len(weight), 1, *[1] * len(tail))
        assert float(tensors[f"{name}.alpha"]) == 1.0


@pytest.mark.parametrize("write", ["spm", "kohya", "diffusers"])
def test_stock_diffusers_predicts_what_the_open_membrane_gives(pipe, membrane, tmp_path, write):
    before, wanted = predicted(pipe), with_delta(pipe, membrane)
    layers, path = layers_of(membrane, pipe), tmp_path / "pistol.safetensors"
    if write == "spm":
        write_spm(layers, path, FACTS, prompts=["pistol"])
    else:
        path = (
            write_kohya(layers, path, FACTS)
            if write == "kohya"
            else write_diffusers(layers, tmp_path, FACTS)
        )
    pipe.load_lora_weights(path)
    assert torch.allclose(predicted(pipe), wanted, **CLOSE)
    assert not torch.allclose(before, wanted, atol=1e-3)


def test_what_was_written_is_imported_and_written_again(pipe, membrane, tmp_path):
    first = tmp_path / "first.safetensors"
    write_spm(layers_of(membrane, pipe), first, FACTS, prompts=["pistol"])
    again = import_delta(first, pipe, REQUEST)
    assert again.unused == ()
    assert again.delta.patches.keys() == membrane.patches.keys()
    second = tmp_path / "second.safetensors"
    write_spm(layers_of(again.delta, pipe), second, FACTS, prompts=["pistol"])
    (one, header), (two, other) = written(first), written(second)
    assert header == other
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_the_layout_cannot_hold_is_refused(pipe, membrane, tmp_path):
    layers, path = layers_of(membrane, pipe), tmp_path / "no.safetensors"
    for prompts in ([], ["a pistol, rusty"]):
        with pytest.raises(BadRequest, match="without commas"):
            write_spm(layers, path, FACTS, prompts=prompts)
    with pytest.raises(BadRequest, match="holds a U-Net"):
        other = Layers("transformer", layers.by_module, 0.0, pipe)
        write_spm(other, path, FACTS, prompts=["pistol"])
    module, layer = next(iter(layers.by_module.items()))
    double = replace(layer, up=layer.up.repeat(1, 2), down=layer.down.repeat(2, 1))
    with pytest.raises(BadRequest, match="one rank"):
        mixed = Layers("unet", {**layers.by_module, module: double}, 0.0, pipe)
        write_spm(mixed, path, FACTS, prompts=["pistol"])
    assert not path.exists()
