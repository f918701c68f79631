"""Files as the authors' own code writes them become deltas that do what the edit does."""

import pytest
import torch
from safetensors.torch import save_file

from efface.errors import BadDelta
from efface.exchange.imports import import_delta
from efface.exchange.kohya_names import original_name
from efface.hosts.components import parameters
from tests.conftest import host
from tests.exchange.conftest import LAYER, OTHER, REQUEST, matrices


def moved(network, only, seed=0):
    """Weights of a network, those whose names hold a word moved."""
    draw = torch.Generator().manual_seed(seed)
    return {
        path: weight.detach() + 0.1 * torch.randn(weight.shape, generator=draw)
        for path, weight in network.named_parameters()
        if only in path
    }


def checked(file, base, edited, part):
    """Imports a file and compares every weight of the model with the edited ones."""
    delta = import_delta(file, base, REQUEST).delta
    with delta.apply(base):
        for key, weight in parameters(base):
            name, _, path = key.partition("/")
            wanted = edited.get(path) if name == part else None
            if wanted is not None:
                assert torch.allclose(weight, wanted, atol=1e-6), key
    assert {key.partition("/")[2] for key in delta.patches} == edited.keys()
    return delta


@pytest.fixture
def unet(base):
    return moved(base.unet, "attn2")


def plain(weights):
    return {path.replace("text_model.", ""): weight for path, weight in weights.items()}


def test_esd_safetensors_with_the_trained_weights_alone(base, unet, tmp_path):
    save_file(unet, tmp_path / "esd-pistol-from-pistol-esdx.safetensors")
    checked(tmp_path / "esd-pistol-from-pistol-esdx.safetensors", base, unet, "unet")


def test_esd_pt_with_a_table_for_every_trained_module(base, unet, tmp_path):
    tables = {}
    for path, weight in unet.items():
        module, _, leaf = path.rpartition(".")
        tables.setdefault(module, {})[leaf] = weight
    torch.save(tables, tmp_path / "esd-pistol.pt")
    checked(tmp_path / "esd-pistol.pt", base, unet, "unet")


def test_esd_pt_of_the_original_code_names_layers_its_own_way(base, unet, tmp_path):
    config = base.unet.config
    state = {}
    for path, weight in base.unet.named_parameters():
        module, _, leaf = path.rpartition(".")
        name = f"model.diffusion_model.{original_name(module, config)}.{leaf}"
        state[name] = unet.get(path, weight.detach())
    torch.save({"state_dict": state, "global_step": 1000}, tmp_path / "compvis-pistol.pt")
    checked(tmp_path / "compvis-pistol.pt", base, unet, "unet")


def test_uce_safetensors_with_keys_and_values(base, tmp_path):
    edited = moved(base.unet, "attn2.to_k") | moved(base.unet, "attn2.to_v")
    save_file(edited, tmp_path / "uce.safetensors")
    checked(tmp_path / "uce.safetensors", base, edited, "unet")


@pytest.mark.parametrize("name", ["rece", "uce-1"])
def test_rece_and_early_uce_checkpoints_of_the_whole_unet(base, name, tmp_path):
    edited = moved(base.unet, "attn2.to_v")
    state = {path: edited.get(path, w.detach()) for path, w in base.unet.named_parameters()}
    torch.save(state, tmp_path / f"{name}.pt")
    checked(tmp_path / f"{name}.pt", base, edited, "unet")


def test_speed_pt_with_the_edited_values(base, tmp_path):
    edited = moved(base.unet, "attn2.to_v")
    held = {path: torch.nn.Parameter(weight) for path, weight in edited.items()}
    torch.save(held, tmp_path / "20250301-120000-pistol.pt")
    checked(tmp_path / "20250301-120000-pistol.pt", base, edited, "unet")


def test_concept_ablation_delta_bin_of_diffusers(base, unet, tmp_path):
    torch.save({"unet": unet, "modifier_token": {}}, tmp_path / "delta.bin")
    checked(tmp_path / "delta.bin", base, unet, "unet")


def test_concept_ablation_delta_ckpt_of_the_original_code(base, unet, tmp_path):
    config = base.unet.config
    state = {
        f"model.diffusion_model.{original_name(path.removesuffix('.weight'), config)}.weight": w
        for path, w in moved(base.unet, "attn2.to_k").items()
    }
    torch.save({"state_dict": state}, tmp_path / "delta_epoch=000005.ckpt")
    delta = import_delta(tmp_path / "delta_epoch=000005.ckpt", base, REQUEST).delta
    assert {key.rpartition(".")[0].rpartition(".")[2] for key in delta.patches} == {"to_k"}


@pytest.mark.parametrize(
    "prefix", ["text_encoder.text_model.", "cond_stage_model.transformer.text_model."]
)
def test_advunlearn_encoders_as_state_dicts(base, tmp_path, prefix):
    edited = plain(moved(base.text_encoder, "mlp"))
    torch.save({f"{prefix}{p}": w for p, w in edited.items()}, tmp_path / "TextEncoder.pt")
    checked(tmp_path / "TextEncoder.pt", base, edited, "text_encoder")


def test_advunlearn_encoders_as_a_folder_of_transformers(base, tmp_path):
    other = host("tiny_sd1")
    edited = plain(moved(other.text_encoder, "mlp"))
    with torch.no_grad():
        for path, weight in other.text_encoder.named_parameters():
            if (new := edited.get(path.replace("text_model.", ""))) is not None:
                weight.copy_(new)
    other.text_encoder.save_pretrained(tmp_path / "nudity_free" / "text_encoder")
    checked(tmp_path / "nudity_free", base, edited, "text_encoder")
    delta = import_delta(
        tmp_path / "nudity_free" / "text_encoder", base, REQUEST, part="text_encoder"
    )
    assert {key.partition("/")[2] for key in delta.delta.patches} == edited.keys()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_leco_and_slider_loras_of_rank_4_and_alpha_1(base, tmp_path, suffix, dtype):
    """LECO and sliders write kohya's tensors by diffusers' names, often in half precision."""
    tensors, products = {}, {}
    for layer in (LAYER, OTHER):
        up, down = (each.to(dtype) for each in matrices(base, layer))
        name = f"lora_unet_{layer.replace('.', '_')}"
        tensors |= {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(1.0, dtype=dtype),
        }
        products[f"unet/{layer}.weight"] = 0.25 * up.float() @ down.float()
    file = tmp_path / f"pistol_last{suffix}"
    save_file(tensors, file) if suffix == ".safetensors" else torch.save(tensors, file)
    patches = import_delta(file, base, REQUEST).delta.patches
    assert patches.keys() == products.keys()
    for key, product in products.items():
        assert torch.allclose(patches[key].up @ patches[key].down, product, atol=1e-5)


def test_a_checkpoint_of_another_model_says_which_key_and_what_to_do(base, tmp_path):
    edited = moved(base.unet, "attn2.to_v")
    edited["down_blocks.7.attentions.0.transformer_blocks.0.attn2.to_v.weight"] = torch.ones(2, 2)
    torch.save(edited, tmp_path / "speed.pt")
    with pytest.raises(BadDelta, match=r"the base lacks the layers of: down_blocks\.7.*--part"):
        import_delta(tmp_path / "speed.pt", base, REQUEST)
