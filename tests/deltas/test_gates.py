"""Gates in real pipelines: whose text opens a membrane under guidance, and gates side by side."""

from dataclasses import replace

import pytest
import torch

from efface.concepts import request
from efface.deltas.adapters import LowRankLayer, attached, layer_behind
from efface.deltas.composition import compose
from efface.deltas.delta import Delta
from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import denoise
from efface.errors import BadDelta
from efface.hosts.families import layout
from tests.conftest import host
from tests.methods.trained import one_step

PISTOL = request("pistol", keep=["cat"])
HOUSE = request("house", keep=["dog", "a red lamp"])
QUICK = {"anchors": 0, "optimiser": "adam", "learning_rate": 0.02}
PROMPTS = ["a pistol", "a cat"]
MADE = {}
SIZE = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent"}


def gated(pipe, wanted=PISTOL, **settings):
    """Trains a membrane of a toy pipeline that is as `host` builds it, the same one once."""
    key = layout(pipe), wanted, *sorted(settings.items())
    if key not in MADE:
        MADE[key] = one_step("spm", pipe, wanted, **QUICK, **settings).delta
    return MADE[key]


def shared(delta):
    """The same delta, whose gate lets the prompt open membranes in both halves of guidance."""
    return replace(delta, gate=replace(delta.gate, shared=True))


def drawn(pipe, prompts=PROMPTS, **options):
    seeds = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    return pipe(prompts, generator=seeds, **(SIZE | options)).images


def passes(pipe, delta, **options):
    """Draws with a delta; gives what went in and out of the denoiser at every pass."""
    network, seen = Denoiser(pipe).network, []

    def record(_, given, named, found):
        seen.append((given, named, found[0]))

    handle = network.register_forward_hook(record, with_kwargs=True)
    try:
        with delta.apply(pipe):
            drawn(pipe, **options)
    finally:
        handle.remove()
    return seen


def by_hand(pipe, delta, given, named, gates):
    """Runs a pass with membranes that are open as far as told."""
    layers = {
        layer_behind(pipe, key): LowRankLayer(patch.down, patch.up)
        for key, patch in delta.patches.items()
    }
    with torch.no_grad(), attached(layers, lambda: gates):
        return Denoiser(pipe).network(*given, **named)[0]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "family", ["sd1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sdxl", "sd3"))]
)
@pytest.mark.parametrize("how", ["own", "same"])
def test_guidance_opens_both_halves_as_told(family, how):
    """A batch is [without, without, pistol, cat]; with ``same`` the gates are of the last two."""
    pipe = host(f"tiny_{family}")
    delta = gated(pipe, unconditional=how)
    seen = passes(pipe, delta, guidance_scale=5.0, negative_prompt=["a dog", ""])
    assert len(seen) == 2
    for given, named, found in seen:
        own = delta.gate.openings(named["encoder_hidden_states"])
        assert len(own) == 4
        assert own[2] > own[[0, 1, 3]].max() + 1e-3
        gates = own[[2, 3, 2, 3]] if how == "same" else own
        assert torch.allclose(by_hand(pipe, delta, given, named, gates), found, atol=1e-5)
        other = own if how == "same" else own[[2, 3, 2, 3]]
        assert not torch.allclose(by_hand(pipe, delta, given, named, other), found, atol=1e-5)


@pytest.mark.thorough
def test_without_guidance_every_sample_has_its_own(tiny_sd1):
    """The batch is even here too, also right after a picture with guidance."""
    own = gated(tiny_sd1)
    drawn(tiny_sd1, guidance_scale=5.0)
    latents = torch.ones(2, 4, 8, 8)
    seen = passes(tiny_sd1, shared(own), guidance_scale=1.0, latents=latents)
    for given, named, found in seen:
        gates = own.gate.openings(named["encoder_hidden_states"])
        assert torch.allclose(by_hand(tiny_sd1, own, given, named, gates), found, atol=1e-5)


@pytest.mark.thorough
def test_a_batch_of_other_latents_is_not_taken_for_guidance(tiny_sd1):
    own = gated(tiny_sd1)
    drawn(tiny_sd1, guidance_scale=5.0)
    denoiser = Denoiser(tiny_sd1)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for delta in (own, shared(own)):
        with delta.apply(tiny_sd1), denoiser.inference_mode():
            times, texts = torch.full((2,), 500.0), denoiser.conditions(["", "pistol"])
            found.append(denoiser.predict(latents, times, texts))
    assert torch.equal(*found)


@pytest.mark.thorough
@pytest.mark.parametrize("drawn_before", [None, 5.0, 1.0])
def test_a_shared_gate_opens_for_pairs_and_for_nothing_beside_them(tiny_sd1, drawn_before):
    """A batch is [without, without, pistol, cat] and two more, whatever was drawn before."""
    own = gated(tiny_sd1)
    if drawn_before:
        drawn(tiny_sd1, guidance_scale=drawn_before)
    else:
        vars(tiny_sd1).pop("_guidance_scale", None)
    denoiser, seen = Denoiser(tiny_sd1), []

    def beside(visit):
        return visit if visit.prediction is not None else replace(visit, further=(more,))

    def record(_, given, named, found):
        seen.append((given, named, found[0]))

    more, prompts = denoiser.conditions(["pistol", "a dog"]), denoiser.conditions(["pistol", "cat"])
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    handle = denoiser.network.register_forward_hook(record, with_kwargs=True)
    try:
        with shared(own).apply(tiny_sd1):
            scheduler = denoiser.ready(1)
            list(
                denoise(denoiser, latents, prompts, scheduler=scheduler, guidance=5.0, steer=beside)
            )
    finally:
        handle.remove()
    ((given, named, found),) = seen
    alone = own.gate.openings(named["encoder_hidden_states"])
    assert len(alone) == 6
    assert alone[2] > alone[0] + 1e-3
    gates = alone[[2, 3, 2, 3, 4, 5]]
    assert torch.allclose(by_hand(tiny_sd1, own, given, named, gates), found, atol=1e-5)
    assert not torch.allclose(by_hand(tiny_sd1, own, given, named, alone), found, atol=1e-5)


@pytest.mark.thorough
def test_a_pipeline_that_guides_in_two_passes_knows_no_pairs():
    pipe = host("tiny_flux")
    own = gated(pipe)
    options = {"true_cfg_scale": 3.0, "negative_prompt": ["", ""]}
    pictures = []
    for delta in (own, shared(own)):
        with delta.apply(pipe):
            pictures.append(drawn(pipe, **options))
    assert torch.equal(*pictures)


@pytest.mark.thorough
def test_gates_of_different_keep_sets_stay_as_they_were_side_by_side(tiny_sd1, tmp_path):
    one, other = gated(tiny_sd1), shared(gated(tiny_sd1, HOUSE, gate="official"))
    assert not torch.equal(one.gate.center, other.gate.center)
    third = gated(tiny_sd1, request("chair"))
    both = compose([third, compose([one, other])])
    both.save(tmp_path / "delta.safetensors")
    back = Delta.load(tmp_path)
    assert (back.id, back.gate.membranes) == (both.id, 3)
    alone = sorted((one, other, third), key=lambda delta: delta.id)
    prompts = ["", "a red lamp", "a pistol", "a house by a chair", "pistol", "house"]
    rows = Denoiser(tiny_sd1).conditions(prompts).rows
    for guided in (False, True):
        wanted = [delta.gate.openings(rows, guided=guided) for delta in alone]
        found = back.gate.openings(rows, guided=guided)
        for opened in wanted:
            assert any(torch.equal(opened[:, 0], column) for column in found.T)
        assert len({tuple(column.tolist()) for column in found.T}) == 3


def test_gates_survive_their_file_and_tell_themselves_apart(tiny_sd1, tmp_path):
    own = gated(tiny_sd1)
    same = shared(own)
    assert own.id != same.id
    assert "gate::shared" not in own.tensors()
    same.save(tmp_path / "delta.safetensors")
    assert Delta.load(tmp_path).gate.shared


@pytest.mark.thorough
def test_gates_of_other_models_are_refused(tiny_sd1):
    one, other = gated(tiny_sd1), gated(tiny_sd1, HOUSE)
    cut = replace(other.gate, prompts=other.gate.prompts[:, :-1])
    with pytest.raises(BadDelta, match="different models"):
        compose([one, replace(other, gate=cut)])
