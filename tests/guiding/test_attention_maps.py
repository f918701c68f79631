"""Attention maps: those that processors compute, cut short exactly, and nothing left behind."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from efface.diffusion.denoising import Denoiser
from efface.errors import BadModel, BadRequest
from efface.guiding.attention_maps import AttentionMaps, cross_attention_layers
from tests.conftest import host, shared

U_NETS = ("sd1", "sd2", "sdxl")


def latents_for(denoiser, count=2, *, seed=0, edges=None):
    generator = torch.Generator().manual_seed(seed)
    channels, *own = denoiser.latent_shape
    drawn = torch.randn((count, channels, *(edges or own)), generator=generator)
    return drawn.to(denoiser.dtype)


def asked(denoiser, count=2):
    times = torch.full((count,), 500.0, dtype=torch.float64)
    return times, denoiser.conditions(["a cat and a dog", "a red car", "a tree"][:count])


@pytest.fixture(scope="module", params=U_NETS)
def denoiser(request):
    return Denoiser(host(f"tiny_{request.param}", dtype=torch.float32))


class Recording(AttnProcessor):
    """Plain attention of diffusers that keeps the probabilities it used."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *rest, **named):
        inner, held = attn.get_attention_scores, self.seen

        def kept(query, key, mask=None):
            held.append(inner(query, key, mask))
            return held[-1]

        attn.get_attention_scores = kept
        try:
            return super().__call__(attn, hidden_states, encoder_hidden_states, *rest, **named)
        finally:
            del attn.get_attention_scores


def test_maps_are_the_probabilities_that_diffusers_computes(denoiser):
    maps = AttentionMaps(denoiser, (8, 8))
    latents, (times, conditions) = latents_for(denoiser), asked(denoiser)
    with torch.no_grad():
        found = maps.read(latents, times, conditions)
    seen = []
    own = [layer.processor for layer in maps.layers]
    for layer in maps.layers:
        layer.set_processor(Recording(seen))
    with denoiser.inference_mode():
        denoiser.predict(latents, times, conditions)
    for layer, processor in zip(maps.layers, own, strict=True):
        layer.set_processor(processor)
    heads = torch.cat([each.unflatten(0, (2, -1)) for each in seen], dim=1)
    assert len(seen) == len(maps.layers) > 0
    assert torch.allclose(found, heads.mean(dim=1).unflatten(1, maps.size), atol=1e-6)
    assert torch.allclose(found.sum(dim=-1), torch.ones(2, *maps.size), atol=1e-5)


@pytest.mark.parametrize("resolution", [4, 8])
def test_ending_early_gives_the_maps_and_gradients_of_the_whole_pass(resolution):
    denoiser = Denoiser(shared("tiny_sd1", dtype=torch.float64))
    latents, (times, conditions) = latents_for(denoiser), asked(denoiser)
    results = []
    for whole in (False, True):
        reader = AttentionMaps(denoiser, (8, 8), resolution=resolution, whole=whole)
        moving = latents.clone().requires_grad_()
        found = reader.read(moving, times, conditions)
        results.append((found.detach(), *torch.autograd.grad(found[..., 2].square().sum(), moving)))
    for cut, full in zip(*results, strict=True):
        assert torch.allclose(cut, full, atol=1e-12, rtol=0)
        assert cut.abs().max() > 0


def test_the_pass_ends_after_the_last_layer_it_reads():
    denoiser = Denoiser(host("tiny_sd1"))
    ran = []
    for part in ("down_blocks", "up_blocks"):
        for block in getattr(denoiser.network, part):
            block.register_forward_hook(lambda *_, part=part: ran.append(part))
    latents, (times, conditions) = latents_for(denoiser), asked(denoiser)
    with torch.no_grad():
        AttentionMaps(denoiser, (8, 8), resolution=4).read(latents, times, conditions)
    assert ran == ["down_blocks", "down_blocks"]


def test_layers_are_found_by_shape_at_any_size_of_picture(denoiser):
    for edges in ((8, 8), (8, 12), (10, 6)):
        seen = {}
        layers = cross_attention_layers(denoiser.network, edges)
        handles = [
            layer.module.register_forward_pre_hook(
                lambda module, given, named, seen=seen: seen.update({module: given[0].shape[1]}),
                with_kwargs=True,
            )
            for layer in layers
        ]
        latents, (times, conditions) = latents_for(denoiser, edges=edges), asked(denoiser)
        with denoiser.inference_mode():
            denoiser.predict(latents, times, conditions)
        for handle in handles:
            handle.remove()
        assert [seen[layer.module] for layer in layers] == [h * w for _, (h, w) in layers]
        assert [*seen] == [layer.module for layer in layers]


def test_maps_of_a_wide_picture_have_its_shape():
    denoiser = Denoiser(host("tiny_sd1"))
    latents, (times, conditions) = latents_for(denoiser, edges=(8, 12)), asked(denoiser)
    with torch.no_grad():
        found = AttentionMaps(denoiser, (8, 12), resolution=8).read(latents, times, conditions)
    assert found.shape[:3] == (2, 8, 12)


def test_a_size_that_no_layer_has_is_refused_with_those_there_are():
    denoiser = Denoiser(host("tiny_sd1"))
    with pytest.raises(BadRequest, match=r"maps of side 16 .* 8 x 8; this model has 4 x 4 and 8 x"):
        AttentionMaps(denoiser, (8, 8), resolution=16)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_transformers_are_refused_by_name(family):
    denoiser = Denoiser(host(f"tiny_{family}"))
    with pytest.raises(BadRequest, match=f"{denoiser.host.title} has no cross-attention"):
        AttentionMaps(denoiser, (8, 8))


def test_latents_of_another_size_are_refused():
    denoiser = Denoiser(host("tiny_sd1"))
    with pytest.raises(BadRequest, match="latents are 8 x 12 and maps were asked for 8 x 8"):
        AttentionMaps(denoiser, (8, 8)).read(latents_for(denoiser, edges=(8, 12)), *asked(denoiser))


def test_recomputed_activations_are_refused():
    denoiser = Denoiser(host("tiny_sd1"))
    denoiser.network.enable_gradient_checkpointing()
    with pytest.raises(BadModel, match="disable_gradient_checkpointing"):
        AttentionMaps(denoiser, (8, 8))


def state_of(network):
    """Lists what a reader could leave behind: processors, hooks, gradients and the mode."""
    parts = [*network.modules()]
    return (
        [getattr(part, "processor", None) for part in parts],
        [(len(part._forward_pre_hooks), len(part._forward_hooks)) for part in parts],
        [(weight.requires_grad, weight.grad) for weight in network.parameters()],
        [part.training for part in parts],
    )


@pytest.mark.parametrize("stopped_by", [None, RuntimeError, KeyboardInterrupt])
def test_the_network_is_left_as_found_whatever_happens(stopped_by):
    denoiser = Denoiser(host("tiny_sd1"))
    denoiser.network.train()
    before = state_of(denoiser.network)
    reader = AttentionMaps(denoiser, (8, 8))
    latents, (times, conditions) = latents_for(denoiser), asked(denoiser)
    if stopped_by is None:
        moving = latents.requires_grad_()
        reader.read(moving, times, conditions).sum().backward()
    else:

        def fails(*_):
            raise stopped_by

        handle = reader.layers[-1].to_k.register_forward_pre_hook(fails)
        with pytest.raises(stopped_by):
            reader.read(latents, times, conditions)
        handle.remove()
    after = state_of(denoiser.network)
    assert all(one is other for one, other in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]


def test_nothing_is_kept_and_other_passes_are_not_read():
    denoiser = Denoiser(host("tiny_sd1"))
    reader = AttentionMaps(denoiser, (8, 8))
    latents, (times, conditions) = latents_for(denoiser), asked(denoiser)
    reader.read(latents, times, conditions)
    with denoiser.inference_mode():
        denoiser.predict(latents, times, conditions)
    held = {name: value for name, value in vars(reader).items() if isinstance(value, torch.Tensor)}
    assert not held
    assert not any(layer._forward_pre_hooks for layer in reader.layers)


def test_each_sample_counts_as_one_evaluation():
    denoiser = Denoiser(host("tiny_sd1"))
    with torch.no_grad():
        AttentionMaps(denoiser, (8, 8)).read(latents_for(denoiser), *asked(denoiser))
    assert denoiser.evaluations == 2


def test_a_batch_gives_the_maps_of_single_samples(denoiser):
    reader = AttentionMaps(denoiser, (8, 8))
    latents, (times, conditions) = latents_for(denoiser), asked(denoiser)
    with torch.no_grad():
        both = reader.read(latents, times, conditions)
        alone = [
            reader.read(latents[i : i + 1], times[i : i + 1], conditions[[i]]) for i in range(2)
        ]
    assert torch.allclose(both, torch.cat(alone), atol=1e-6)


def test_adapters_of_peft_and_deltas_count():
    from peft import LoraConfig

    denoiser = Denoiser(host("tiny_sd1"))
    latents, (times, conditions) = latents_for(denoiser), asked(denoiser)
    with torch.no_grad():
        before = AttentionMaps(denoiser, (8, 8)).read(latents, times, conditions)
        with torch.random.fork_rng():
            config = LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
            denoiser.network.add_adapter(config)
        reader = AttentionMaps(denoiser, (8, 8))
        wrapped = reader.read(latents, times, conditions)
        denoiser.network.disable_adapters()
        off = reader.read(latents, times, conditions)
    assert (wrapped - before).abs().max() > 1e-4
    assert torch.allclose(off, before, atol=1e-6)


def test_half_precision_gives_maps_in_float32_near_those_of_float32():
    whole, half = (Denoiser(host("tiny_sd1", dtype=d)) for d in (torch.float32, torch.float16))
    found = []
    for denoiser in (whole, half):
        latents, (times, conditions) = latents_for(denoiser), asked(denoiser)
        moving = latents.requires_grad_()
        maps = AttentionMaps(denoiser, (8, 8)).read(moving, times, conditions)
        (slope,) = torch.autograd.grad(maps[..., 2].sum(), moving)
        assert slope.dtype == denoiser.dtype
        assert slope.isfinite().all()
        found.append(maps.detach())
    assert found[1].dtype == torch.float32
    assert torch.allclose(found[0], found[1], atol=2e-2)
