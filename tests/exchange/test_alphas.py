"""The scale of LoRA layers, wherever a file says it: tensors, peft's config, headers."""

import json
import math

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from efface.errors import BadDelta
from efface.exchange.imports import import_delta
from tests.conftest import host
from tests.exchange.conftest import KEY, LAYER, OTHER, REQUEST, SECOND, matrices


def peft_folder(base, folder, **config):
    """Writes two layers of ranks 4 and 2, and a config, as peft does."""
    one, two = matrices(base), matrices(base, OTHER, rank=2, seed=1)
    tensors = {
        f"base_model.model.{layer}.lora_{side}.weight": tensor
        for layer, (up, down) in {LAYER: one, OTHER: two}.items()
        for side, tensor in (("A", down), ("B", up))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    usual = {"peft_type": "LORA", "r": 4, "rank_pattern": {OTHER: 2}, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(usual | config))
    return one[0] @ one[1], two[0] @ two[1]


def scales(base, source, products):
    delta = import_delta(source, base, REQUEST).delta
    return [
        float((delta.patches[key].up @ delta.patches[key].down).norm() / product.norm())
        for key, product in zip((KEY, SECOND), products, strict=True)
    ]


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"lora_alpha": 16}, (4, 8)),
        ({"lora_alpha": 16, "alpha_pattern": {OTHER: 1}}, (4, 0.5)),
        ({"alpha_pattern": {"mid_block.*attn2.to_k": 6}}, (1, 3)),
        ({"alpha_pattern": {f"^{LAYER}": 2, "to_k": 8}}, (0.5, 4)),
        ({"lora_alpha": 8, "use_rslora": True}, (4, 8 / math.sqrt(2))),
    ],
)
def test_alpha_in_peft_s_config(base, tmp_path, config, wanted):
    products = peft_folder(base, tmp_path, **config)
    assert scales(base, tmp_path, products) == pytest.approx(wanted, rel=1e-5)
    by_file = scales(base, tmp_path / "adapter_model.safetensors", products)
    assert by_file == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("options", [{"lora_alpha": 16}, {"lora_alpha": 16, "use_rslora": True}])
def test_what_peft_saved_is_what_peft_does(base, tmp_path, options):
    trained = host("tiny_sd1")
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["to_k"], init_lora_weights=False, **options)
    trained.unet.add_adapter(config)
    state = get_peft_model_state_dict(trained.unet)
    save_file(
        {f"base_model.model.{name}": tensor.contiguous() for name, tensor in state.items()},
        tmp_path / "adapter_model.safetensors",
    )
    config.save_pretrained(tmp_path)
    delta = import_delta(tmp_path, base, REQUEST).delta
    theirs = trained.unet.get_submodule(LAYER).get_delta_weight("default")
    ours = delta.difference(KEY, base.unet.get_parameter(f"{LAYER}.weight").detach())
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("pattern", [{}, {"rank_pattern": {LAYER: 2}, "alpha_pattern": {LAYER: 7}}])
def test_alpha_in_the_header_that_diffusers_writes(base, tmp_path, pattern):
    trained = host("tiny_sd1")
    torch.manual_seed(0)
    config = {"r": 4, "lora_alpha": 16, "target_modules": ["to_k"], "init_lora_weights": False}
    trained.unet.add_adapter(LoraConfig(**config, **pattern))
    told = trained.unet.peft_config["default"].to_dict()
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(trained.unet),
        unet_lora_adapter_metadata={
            k: list(v) if isinstance(v, set) else v for k, v in told.items()
        },
    )
    delta = import_delta(tmp_path, base, REQUEST).delta
    for layer, key in ((LAYER, KEY), (OTHER, SECOND)):
        theirs = trained.unet.get_submodule(layer).get_delta_weight("default")
        ours = delta.difference(key, base.unet.get_parameter(f"{layer}.weight").detach())
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_alpha_as_a_tensor_a_number_or_not_at_all(base, tmp_path):
    (up, down), module = matrices(base), f"lora_unet_{LAYER.replace('.', '_')}"
    plain = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}
    for name, alpha, wanted in (("none", None, 1), ("number", 2.0, 0.5), ("tensor", 8.0, 2)):
        more = {} if alpha is None else {f"{module}.alpha": alpha}
        torch.save(plain | more, tmp_path / f"{name}.pt")
        patch = import_delta(tmp_path / f"{name}.pt", base, REQUEST).delta.patches[KEY]
        assert torch.allclose(patch.up @ patch.down, wanted * (up @ down), atol=1e-5)


def test_alpha_in_the_header_of_a_membrane(base, tmp_path):
    (up, down), module = matrices(base), f"lora_unet_{LAYER.replace('.', '_')}"
    plain = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}
    header = {"rank": "4", "alpha": "1.0", "prompts": "pistol"}
    save_file(plain, tmp_path / "spm.safetensors", metadata=header)
    patch = import_delta(tmp_path / "spm.safetensors", base, REQUEST).delta.patches[KEY]
    assert torch.allclose(patch.up @ patch.down, 0.25 * (up @ down), atol=1e-5)
    save_file(plain | {f"{module}.alpha": torch.tensor(4.0)}, tmp_path / "two.safetensors", header)
    with pytest.raises(BadDelta, match="contradict each other"):
        import_delta(tmp_path / "two.safetensors", base, REQUEST)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"use_dora": True}, "is of DoRA and the file has no magnitude"),
        ({"peft_type": "LOKR"}, "LOKR"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base's weights"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"r": 8}, "says that .* has rank 8 and its tensors have 4"),
        ({"lora_alpha": "much"}, "'much', which is not a number"),
        ({"lora_alpha": float("nan")}, "not a number"),
        ({"alpha_pattern": [1]}, "not a table"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern has"),
        ({"alpha_pattern": {"(a+)+": 1}}, "too intricate"),
    ],
)
def test_configs_of_more_than_a_lora_are_refused(base, tmp_path, config, text):
    peft_folder(base, tmp_path, **config)
    with pytest.raises(BadDelta, match=text) as caught:
        import_delta(tmp_path, base, REQUEST)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "{", "null"])
def test_damaged_configs_are_refused(base, tmp_path, text):
    peft_folder(base, tmp_path)
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(BadDelta, match=r"adapter_config\.json"):
        import_delta(tmp_path, base, REQUEST)


def test_a_lost_config_is_told(base, tmp_path):
    products = peft_folder(base, tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    assert scales(base, tmp_path, products) == pytest.approx((1, 1))
    (note,) = import_delta(tmp_path, base, REQUEST).notes
    assert "alpha is taken as the rank" in note
