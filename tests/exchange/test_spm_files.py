"""SPM's published layout: names, shapes and header, read by stock diffusers and by import."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

import efface
from efface.concepts import request as asked
from efface.deltas.composition import compose
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.exchange.imports import import_delta
from efface.exchange.lora_files import write_diffusers, write_kohya
from efface.exchange.low_rank import Layers, layers_of
from efface.exchange.spm_files import gate_from, write_spm
from efface.runs.gating import GateRule
from tests.conftest import host
from tests.exchange.conftest import REQUEST, predicted, trained_membrane, with_delta

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
FACTS = {"base_model": "tiny"}


@pytest.fixture
def membrane(pipe, request):
    """A membrane that is always open, as one is without its gate."""
    return replace(trained_membrane(request.node.callspec.params["pipe"]), gate=None)


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


@pytest.mark.thorough
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


PISTOL_TEXTS = ["pistol", "a photo of a pistol", "an image of a pistol"]
OTHER_TEXTS = ["", "a cat", "a house by a tree"]


def moved(pipe, delta, prompts):
    """How far a delta moves the prediction for each prompt."""
    denoiser = Denoiser(pipe)
    start = torch.randn(1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(1))
    given = start.repeat(len(prompts), 1, 1, 1), torch.full((len(prompts),), 500.0)
    texts = denoiser.conditions(prompts)
    with denoiser.inference_mode():
        before = denoiser.predict(*given, texts)
        with delta.apply(pipe):
            return (denoiser.predict(*given, texts) - before).flatten(1).norm(dim=1)


def imported(pipe, membrane, path, *prompts, wanted=REQUEST, **options):
    write_spm(layers_of(membrane, pipe), path, FACTS, prompts=prompts)
    return import_delta(path, pipe, wanted, **options)


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["sd1", pytest.param("sd2", marks=pytest.mark.slow), "sdxl"])
def test_an_imported_membrane_opens_for_the_prompts_of_its_header(family, tmp_path):
    pipe, ours = host(f"tiny_{family}"), trained_membrane(f"tiny_{family}")
    found = imported(pipe, ours, tmp_path / "spm.safetensors", "pistol")
    assert (found.layout, found.opens_for, found.unused) == ("SPM", ("pistol",), ())
    back = found.delta
    assert back.patches.keys() == ours.patches.keys()
    for key, patch in ours.patches.items():
        assert torch.equal(patch.up, back.patches[key].up)
        assert torch.equal(patch.down, back.patches[key].down)
    denoiser = Denoiser(pipe)
    opened = back.gate.openings(denoiser.conditions(PISTOL_TEXTS).rows)
    assert torch.allclose(opened, torch.ones(len(PISTOL_TEXTS), 1), atol=1e-5)
    others = denoiser.conditions(OTHER_TEXTS).rows
    assert (back.gate.openings(others) <= ours.gate.openings(others) + 1e-6).all()
    ungated = replace(back, gate=None)
    shares = moved(pipe, back, OTHER_TEXTS) / moved(pipe, ungated, OTHER_TEXTS)
    assert shares.max() < 0.98
    own = moved(pipe, back, PISTOL_TEXTS)
    assert torch.allclose(own, moved(pipe, ungated, PISTOL_TEXTS), rtol=1e-3)


def test_the_gate_is_the_paper_s_for_whole_prompts(pipe, membrane, tmp_path):
    """Without a word of the concept the opening is the cosine of all rows, end to end."""
    made = imported(pipe, membrane, tmp_path / "spm.safetensors", "pistol")
    rows = Denoiser(pipe).conditions(["pistol", *OTHER_TEXTS]).rows.flatten(1)
    cosines = torch.cosine_similarity(rows[:1], rows[1:])
    opened = made.delta.gate.openings(Denoiser(pipe).conditions(OTHER_TEXTS).rows)
    assert torch.allclose(opened[:, 0], cosines, atol=1e-5)


def test_trained_texts_leave_a_membrane_shut_by_half_or_more():
    """With a trained text encoder; the toys' rows tell places from another more than words."""
    pipe = efface.load("emoji")
    gate = gate_from(["pistol"], pipe, REQUEST, GateRule(names_alone=True))
    texts = Denoiser(pipe).conditions
    own = gate.openings(texts(["pistol", "a photo of a pistol", "a pistol in a field"]).rows)
    assert torch.allclose(own, torch.ones(3, 1), atol=1e-5)
    others = ["", "cat", "a photo of a cat", "a house", "a picture of a dog", "a drawing of a tree"]
    assert gate.openings(texts(others).rows).max() < 0.6


def test_one_membrane_opens_for_any_prompt_of_its_file(pipe, membrane, tmp_path):
    made = imported(pipe, membrane, tmp_path / "spm.safetensors", "pistol", "house")
    assert (made.opens_for, made.delta.gate.membranes) == (("pistol", "house"), 1)
    rows = Denoiser(pipe).conditions(["a photo of a house", "a photo of a pistol"]).rows
    assert torch.allclose(made.delta.gate.openings(rows), torch.ones(2, 1), atol=1e-5)


def test_how_an_imported_gate_opens_can_be_chosen(pipe, membrane, tmp_path):
    file = tmp_path / "spm.safetensors"
    linear = imported(pipe, membrane, file, "pistol").delta.gate
    options = {"gate": "official", "unconditional": "same"}
    released = imported(pipe, membrane, file, "pistol", **options).delta
    rows = Denoiser(pipe).conditions(OTHER_TEXTS).rows
    assert torch.allclose(released.gate.openings(rows), linear.openings(rows) ** 2)
    assert released.gate.shared
    assert not linear.shared
    always = imported(pipe, membrane, file, "pistol", gate="none")
    assert (always.layout, always.opens_for, always.delta.gate) == ("SPM", (), None)


def test_without_prompts_in_the_header_there_is_no_gate(pipe, membrane, tmp_path):
    path = write_kohya(layers_of(membrane, pipe), tmp_path / "plain.safetensors", FACTS)
    found = import_delta(path, pipe, REQUEST)
    assert (found.layout, found.opens_for, found.delta.gate) == ("LoRA", (), None)


@pytest.mark.thorough
def test_imported_files_compose_and_keep_their_gates(request, pipe, membrane, tmp_path):
    name = request.node.callspec.params["pipe"]
    plain = replace(trained_membrane(name, "house", 0.03), gate=None)
    one = imported(pipe, membrane, tmp_path / "a.safetensors", "pistol").delta
    two = imported(
        pipe, plain, tmp_path / "b.safetensors", "house", wanted=asked("house", keep=["a tree"])
    ).delta
    both = compose([one, two], scales=[1.0, 0.5])
    prompts = [*PISTOL_TEXTS, *OTHER_TEXTS, "a house"]
    alone = sorted((one, two), key=lambda delta: delta.id)
    rows = Denoiser(pipe).conditions(prompts).rows
    wanted = torch.cat([delta.gate.openings(rows) for delta in alone], dim=1)
    assert torch.equal(both.gate.openings(rows), wanted)
    together = moved(pipe, both, prompts)
    with one.apply(pipe), two.apply(pipe, scale=0.5):
        in_turn = predicted(pipe)
    assert torch.allclose(with_delta(pipe, both), in_turn, atol=1e-4)
    assert together.min() > 0
