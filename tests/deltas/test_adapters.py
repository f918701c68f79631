"""Low-rank layers with gates: exact, removable, and of the published sizes."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from efface.deltas.adapters import Adapters, LowRankLayer, adapting, attached
from efface.deltas.patches import LowRankPatch
from efface.diffusion.denoising import Denoiser
from efface.hosts.roles import members
from tests.conformance.snapshots import differences, snapshot
from tests.conftest import host


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def predicted(pipe, prompts=("a cat", "pistol")):
    denoiser = Denoiser(pipe)
    latents = drawn(len(prompts), *denoiser.latent_shape)
    times = torch.full((len(prompts),), 300.0)
    return denoiser.predict(latents, times, denoiser.conditions(list(prompts)))


def adapters_of(pipe, role="attention_blocks", **options):
    return Adapters(pipe, role, generator=torch.Generator().manual_seed(0), **options)


LAYERS = [
    (nn.Linear(6, 5), (3, 7, 6)),
    (nn.Conv2d(4, 5, 1), (3, 4, 6, 6)),
    (nn.Conv2d(4, 5, 3, stride=2, padding=1), (3, 4, 6, 6)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_a_layer_beside_is_the_merged_weight(layer, shape):
    inputs = layer.weight[0].numel()
    down, up = drawn(2, inputs), drawn(5, 2, seed=1)
    x = drawn(*shape, seed=2)
    with torch.no_grad():
        plain = layer(x)
        with attached({layer: LowRankLayer(down, up)}, lambda: None):
            beside = layer(x)
        merged = nn.utils.stateless.functional_call(
            layer, {"weight": layer.weight + LowRankPatch(up, down).on(layer.weight)}, x
        )
        assert torch.equal(layer(x), plain)
    assert torch.allclose(beside, merged, atol=1e-4)
    assert not torch.allclose(beside, plain, atol=1e-2)


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_membranes_add_up_and_are_gated_sample_by_sample(layer, shape):
    """y(g1, g2) - y(0, 0) = g1 d1 + g2 d2, each sample with gates of its own."""
    inputs = layer.weight[0].numel()
    down, up = drawn(2, inputs), drawn(5, 2, seed=1)
    x = drawn(*shape, seed=2)
    both = LowRankLayer(down, up)
    alone = [LowRankLayer(down[i : i + 1], up[:, i : i + 1]) for i in range(2)]
    gates = torch.tensor([[0.0, 1.0], [0.3, 0.0], [0.5, 2.0]])
    with torch.no_grad():
        found = both.on(layer, x, gates)
        parts = [each.on(layer, x, None) for each in alone]
    shape = (3, *[1] * (found.ndim - 1))
    wanted = sum(gates[:, i].reshape(shape) * parts[i] for i in range(2))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not both.on(layer, x, torch.zeros(3, 2)).any()


def test_fresh_adapters_change_nothing_and_leave_nothing():
    pipe = host("tiny_sd1")
    before, plain = snapshot(pipe), predicted(pipe).detach()
    adapters = adapters_of(pipe, rank=2)
    with adapting(pipe, adapters):
        assert torch.equal(predicted(pipe).detach(), plain)
        with torch.no_grad():
            for name, weight in adapters.parameters.items():
                if name.endswith("up"):
                    weight.copy_(drawn(*weight.shape))
        assert not torch.allclose(predicted(pipe).detach(), plain, atol=1e-2)
        with adapters.teacher():
            assert torch.equal(predicted(pipe), plain)
        predicted(pipe).sum().backward()
        assert all(weight.grad is not None for weight in adapters.parameters.values())
        assert all(weight.grad is None for weight in pipe.unet.parameters())
    assert torch.equal(predicted(pipe).detach(), plain)
    assert not differences(before, snapshot(pipe))


def test_patches_do_what_the_layers_did():
    from efface.deltas.patches import dense_form

    pipe = host("tiny_sd2")
    adapters = adapters_of(pipe, rank=2, alpha=3.0)
    for name, weight in adapters.parameters.items():
        if name.endswith("up"):
            weight.data = 0.1 * drawn(*weight.shape)
    with adapting(pipe, adapters), torch.no_grad():
        beside = predicted(pipe)
    with torch.no_grad():
        for key, patch in adapters.patches().items():
            weight = members(pipe, "unet")[key]
            weight += dense_form(patch, like=patch).reshape(weight.shape)
        assert torch.allclose(predicted(pipe), beside, atol=1e-4)


SD1 = {"sample_size": 64, "cross_attention_dim": 768}
SD2 = {"sample_size": 96, "cross_attention_dim": 1024, "use_linear_projection": True}
SD2 |= {"attention_head_dim": (5, 10, 20, 20)}
XL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.mark.parametrize(
    ("config", "layers", "values"),
    [(SD1, 192, 423_936), (SD2, 192, 432_128), (XL, 722, 2_659_840)],
)
def test_membranes_have_the_published_sizes(config, layers, values):
    class Pipe:
        with torch.device("meta"):
            unet = UNet2DConditionModel(**config)

    found = members(Pipe, "attention_blocks")
    assert len(found) == layers
    assert sum(len(weight) + weight[0].numel() for weight in found.values()) == values
