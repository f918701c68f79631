"""Every key of a file is read, refused or told; nothing of a layer is left out in silence."""

import pytest
import torch
from safetensors.torch import save_file

from efface.errors import BadDelta, MissingInput
from efface.exchange.imports import import_delta
from tests.conftest import host
from tests.exchange.conftest import KEY, LAYER, OTHER, REQUEST, SECOND, matrices

PLACE = f"lora_unet_{LAYER.replace('.', '_')}"
TEXT = "encoder.layers.0.self_attn.q_proj"
TEXT_KEY = f"text_encoder/{TEXT}.weight"


def lora(name, up, down, sides=("lora_up", "lora_down")):
    return {f"{name}.{sides[0]}.weight": up, f"{name}.{sides[1]}.weight": down}


def read(tensors, base, folder, *, header=None, **options):
    path = folder / "file.safetensors"
    save_file(
        {
            name: each.detach().clone(memory_format=torch.contiguous_format)
            for name, each in tensors.items()
        },
        path,
        header,
    )
    return import_delta(path, base, REQUEST, **options)


def refusal(tensors, base, folder, kind=BadDelta, **options):
    with pytest.raises(kind) as caught:
        read(tensors, base, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector", "DoRA"),
        ("lora_mid.weight", "Tucker"),
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("oft_blocks", "OFT"),
        ("lora_embedding_A", "embedding"),
        ("lora_B.bias", "not understood"),
        ("scale_weight", "not understood"),
        ("whatever", "not understood"),
    ],
)
@pytest.mark.parametrize("beside", ["the same layer", "another layer", "edited weights"])
def test_what_is_left_of_a_layer_is_refused_by_name(base, tmp_path, suffix, text, beside):
    (up, down), name = matrices(base), f"{PLACE}.{suffix}"
    tensors = lora(PLACE, up, down)
    if beside == "another layer":
        name = f"lora_unet_{OTHER.replace('.', '_')}.{suffix}"
    if beside == "edited weights":
        name = f"{LAYER}.{suffix}"
        tensors = {f"{LAYER}.weight": base.unet.get_parameter(f"{LAYER}.weight") * 1.1}
    said = refusal({**tensors, name: torch.ones(3)}, base, tmp_path)
    assert name in said
    assert text in said


def test_layers_that_the_model_lacks_are_refused(base, tmp_path):
    up, down = matrices(base)
    for strange in ("lora_unet_down_blocks_9_to_k", "lora_te2_text_model_encoder_layers_0_mlp_fc1"):
        said = refusal({**lora(PLACE, up, down), **lora(strange, up, down)}, base, tmp_path)
        assert "the base lacks the layers of" in said
        assert strange in said
    weights = {f"{LAYER}.weight": up @ down, "text_encoder_2.encoder.x.weight": torch.ones(2)}
    assert "text_encoder_2" in refusal(weights, base, tmp_path)
    assert read(weights, base, tmp_path, part="unet").unused == ("text_encoder_2.encoder.x.weight",)


def test_two_adapters_in_one_file_are_refused(base, tmp_path):
    up, down = matrices(base)
    names = [("lora_B.one", "lora_A.one"), ("lora_B.two", "lora_A.two")]
    both = {k: t for sides in names for k, t in lora(LAYER, up, down, sides).items()}
    assert "two adapters" in refusal(both, base, tmp_path)
    twice = lora(PLACE, up, down) | lora(f"unet.{LAYER}", up, down, ("lora_B", "lora_A"))
    assert "two LoRA layers" in refusal(twice, base, tmp_path)


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        (PLACE, ("lora_up", "lora_down")),
        (f"lycoris_{LAYER.replace('.', '_')}", ("lora_up", "lora_down")),
        (f"lora_unet_{'input_blocks.1.1.transformer_blocks.0.attn2.to_k'.replace('.', '_')}",) * 1
        + (("lora_up", "lora_down"),),
        (f"unet.{LAYER}", ("lora_B", "lora_A")),
        (f"base_model.model.{LAYER}", ("lora_B", "lora_A")),
        (f"unet.base_model.model.{LAYER}", ("lora_B.default", "lora_A.default")),
        (f"unet.{LAYER}", ("lora.up", "lora.down")),
        (f"unet.{LAYER.replace('attn2.', 'attn2.processor.')}_lora", ("up", "down")),
        (LAYER.replace("attn2.", "attn2.processor.") + "_lora", ("up", "down")),
        (f"unet._orig_mod.{LAYER}", ("lora_B", "lora_A")),
    ],
)
def test_names_of_a_layer_in_all_layouts(base, tmp_path, name, sides):
    up, down = matrices(base)
    patch = read(lora(name, up, down, sides), base, tmp_path).delta.patches[KEY]
    assert torch.equal(patch.up @ patch.down, up @ down)


def test_old_diffusers_files_hold_outputs_and_text_encoders_too(base, tmp_path):
    out = LAYER.replace("to_k", "to_out.0")
    (up, down), width = matrices(base, out), base.text_encoder.config.hidden_size
    old = f"unet.{LAYER.replace('attn2.to_k', 'attn2.processor.to_out')}_lora"
    text = torch.ones(width, 4), torch.ones(4, width)
    tensors = lora(old, up, down, ("up", "down"))
    tensors |= lora(
        "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora", *text, ("up", "down")
    )
    found = read(tensors, base, tmp_path)
    assert set(found.delta.patches) == {f"unet/{out}.weight", TEXT_KEY}


def test_flux_sliders_say_unet_for_the_transformer(tmp_path):
    pipe = host("tiny_flux")
    layer = next(n for n, _ in pipe.transformer.named_modules() if n.endswith("attn.to_k"))
    weight = pipe.transformer.get_parameter(f"{layer}.weight")
    up, down = torch.ones(len(weight), 2), torch.ones(2, weight.shape[1])
    path = tmp_path / "slider_0.pt"
    torch.save(lora(f"lora_unet_{layer.replace('.', '_')}", up, down), path)
    assert list(import_delta(path, pipe, REQUEST).delta.patches) == [f"transformer/{layer}.weight"]


@pytest.mark.parametrize("shapes", [((), ()), ((1, 1), (1, 1)), ((), (1, 1))])
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_one_by_one_convolutions_and_linear_layers_stand_for_each_other(tmp_path, family, shapes):
    pipe, layer = host(f"tiny_{family}"), "down_blocks.0.attentions.0.proj_in"
    weight = pipe.unet.get_parameter(f"{layer}.weight")
    up, down = torch.ones(len(weight), 2, *shapes[0]), torch.ones(2, weight.shape[1], *shapes[1])
    patch = read(lora(layer, up, down), pipe, tmp_path).delta.patches[f"unet/{layer}.weight"]
    assert torch.equal(patch.on(weight), torch.full_like(weight, 2.0))
    other = weight.detach().flatten(1) + 1
    found = read({f"{layer}.weight": other.reshape(*other.shape, *shapes[1])}, pipe, tmp_path)
    assert found.delta.patches[f"unet/{layer}.weight"].difference.shape == weight.shape


def test_matrices_of_other_shapes_and_layers_are_refused(base, tmp_path):
    conv = base.unet.conv_in.weight
    up, down = torch.ones(len(conv), 2, 3, 3), torch.ones(2, conv.shape[1], 1, 1)
    assert "another model" in refusal(lora("unet.conv_in", up, down), base, tmp_path)
    table = base.text_encoder.get_input_embeddings().weight
    rows = lora("text_encoder.embeddings.token_embedding", torch.ones(len(table), 1), table[:1] + 1)
    assert "is of Embedding" in refusal(rows, base, tmp_path)
    good = matrices(base)
    infinite = lora(PLACE, good[0] / 0, good[1])
    assert "not finite" in refusal(infinite, base, tmp_path)
    none = lora(PLACE, good[0][:, :0], good[1][:0])
    assert "rank 0" in refusal(none, base, tmp_path)


def test_full_differences_of_weights_biases_and_norms(base, tmp_path):
    norm = "conv_norm_out"
    size = len(base.unet.conv_norm_out.weight)
    up, down = matrices(base)
    tensors = {
        f"{PLACE}.diff": up @ down,
        "lora_unet_conv_in.diff_b": torch.ones(len(base.unet.conv_in.bias)),
        f"lora_unet_{norm}.w_norm": torch.ones(size),
        f"lora_unet_{norm}.b_norm": torch.full((size,), 2.0),
    }
    patches = read(tensors, base, tmp_path).delta.patches
    assert torch.equal(patches[KEY].difference, up @ down)
    assert torch.equal(patches["unet/conv_norm_out.bias"].difference, torch.full((size,), 2.0))
    assert set(patches) == {
        KEY, "unet/conv_in.bias", "unet/conv_norm_out.weight", "unet/conv_norm_out.bias"
    }  # fmt: skip
    assert "not understood" in refusal({f"{PLACE}.diff_b": torch.ones(2)}, base, tmp_path)


def test_the_bias_of_a_second_matrix_has_the_scale_of_the_matrices(base, tmp_path):
    out = LAYER.replace("to_k", "to_out.0")
    up, down = matrices(base, out)
    sides = {f"{out}.lora_B.weight": up, f"{out}.lora_A.weight": down}
    shift, alpha = torch.arange(float(len(up))), torch.tensor(len(down) / 4)
    tensors = {**sides, f"{out}.lora_B.bias": shift, f"{out}.alpha": alpha}
    patches = read(tensors, base, tmp_path).delta.patches
    assert torch.equal(patches[f"unet/{out}.bias"].difference, shift / 4)
    assert set(patches) == {f"unet/{out}.weight", f"unet/{out}.bias"}


def test_layers_without_a_change_are_none(base, tmp_path):
    up, down = matrices(base)
    still = lora(
        f"lora_unet_{OTHER.replace('.', '_')}",
        0 * matrices(base, OTHER)[0],
        matrices(base, OTHER)[1],
    )
    assert list(read(lora(PLACE, up, down) | still, base, tmp_path).delta.patches) == [KEY]
    assert "differs from the base" in refusal(still, base, tmp_path)
    assert SECOND not in read(lora(PLACE, up, down) | still, base, tmp_path).delta.patches


def test_quantised_and_infinite_weights_are_refused(base, tmp_path):
    weight = base.unet.get_parameter(f"{LAYER}.weight").detach()
    assert "quantised" in refusal({f"{LAYER}.weight": weight.to(torch.int8)}, base, tmp_path)
    assert "not finite" in refusal({f"{LAYER}.weight": weight / 0}, base, tmp_path)


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2"])
def test_a_part_that_the_model_lacks_is_refused(base, tmp_path, part):
    said = refusal(lora(PLACE, *matrices(base)), base, tmp_path, MissingInput, part=part)
    assert part in said
    assert "unet" in said
