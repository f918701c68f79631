"""NAG: its equations by hand, which samples it guides, and where it is refused."""

import pytest
import torch

from efface.deltas.delta import Delta
from efface.diffusion.denoising import Denoiser
from efface.errors import BadModel, BadRequest
from efface.guides.nag import NormalisedAttention, away
from tests.conftest import shared
from tests.guiding.toys import drawn, erased


def test_features_are_led_away_and_their_size_is_bounded():
    """Two tokens by hand: [1, 1] from [0, 2] at scale 3 is [3, -1], of L1 norm 4, twice that of
    [1, 1]; bounded to 1.5 times it is [2.25, -0.75]. [4, 0] from [4, 0] stays."""
    z, z_n = torch.tensor([[[1.0, 1.0], [4.0, 0.0]]]), torch.tensor([[[0.0, 2.0], [4.0, 0.0]]])
    assert away(z, z_n, scale=3.0, clip=2.5).tolist() == [[[3.0, -1.0], [4.0, 0.0]]]
    assert away(z, z_n, scale=3.0, clip=1.5).tolist() == [[[2.25, -0.75], [4.0, 0.0]]]
    assert torch.equal(away(z, z_n, scale=1.0, clip=2.5), z)


def test_the_features_are_those_of_the_networks_own_attention():
    """A prompt led away from its own text stays: its keys, values and heads are computed alike."""
    denoiser = Denoiser(shared("tiny_sd1"))
    guide = NormalisedAttention(text="a cat")
    latents, steering = drawn(denoiser, [guide], prompts=["a cat", "a dog"])
    plain, _ = drawn(denoiser, [], prompts=["a cat", "a dog"])
    assert torch.allclose(latents[0], plain[0], atol=1e-4)
    assert not torch.allclose(latents[1], plain[1], atol=1e-2)
    assert steering.changes["nag"][0] < 1e-5
    assert steering.changes["nag"][1] > 1e-2


@pytest.mark.parametrize("guidance", [None, 3.0])
def test_it_costs_one_evaluation_with_guidance_and_without(guidance):
    denoiser = Denoiser(shared("tiny_sdxl"))
    plain, _ = drawn(denoiser, [], guidance=guidance)
    between = denoiser.evaluations
    led, _ = drawn(denoiser, [NormalisedAttention(text="a red house")], guidance=guidance)
    assert denoiser.evaluations == 2 * between + 2
    assert not torch.allclose(led, plain, atol=1e-2)


def test_the_empty_prompt_is_left_alone():
    denoiser, visits = Denoiser(shared("tiny_sd1")), []
    plain = []
    drawn(denoiser, [], visits=plain)
    drawn(denoiser, [NormalisedAttention(text="red")], visits=visits)
    assert torch.allclose(visits[0].unconditional, plain[0].unconditional, atol=1e-6)
    assert not torch.allclose(visits[0].conditional, plain[0].conditional, atol=1e-4)


def test_a_batch_in_parts_guides_the_same_samples():
    whole, in_parts = (Denoiser(shared("tiny_sd1")) for _ in range(2))
    in_parts._part = 3  # as if memory had run out
    guide = NormalisedAttention(text="red")
    first, second = (drawn(each, [guide])[0] for each in (whole, in_parts))
    assert torch.allclose(first, second, atol=1e-4)


def test_keys_and_values_of_the_text_are_those_of_the_base_or_of_the_edited_model():
    pipe, delta = erased()
    base = drawn(Denoiser(pipe), [NormalisedAttention(text="pistol")])[0]
    with delta.apply(pipe):
        found = [
            drawn(Denoiser(pipe), [NormalisedAttention(text="pistol", negative_on=branch)])[0]
            for branch in ("unedited", "edited")
        ]
    assert not torch.allclose(*found, atol=1e-3)
    assert not torch.allclose(base, found[0], atol=1e-3)


def test_on_a_gated_delta_the_edited_branch_is_refused(monkeypatch):
    pipe, delta = erased()
    with delta.apply(pipe):
        monkeypatch.setattr(Delta, "gate", object(), raising=False)
        object.__setattr__(delta, "gate", object())
        try:
            with pytest.raises(
                BadRequest, match="keys and values of a delta with a gate or a row map"
            ):
                drawn(Denoiser(pipe), [NormalisedAttention(text="x", negative_on="edited")])
        finally:
            object.__setattr__(delta, "gate", None)


def test_attention_that_does_not_ask_by_its_projection_is_refused():
    pipe = shared("tiny_sd1")
    layer = next(m for name, m in pipe.unet.named_modules() if name.endswith("attn2"))
    held = layer.processor

    def other(attn, hidden_states, encoder_hidden_states=None, **_):
        return attn.to_out[0](hidden_states)

    layer.processor = other
    try:
        with pytest.raises(BadModel, match="does not ask by to_q"):
            drawn(Denoiser(pipe), [NormalisedAttention(text="x")])
    finally:
        layer.processor = held


def test_what_makes_no_sense_is_refused():
    for settings, match in (
        ({"scale": 0.5}, "scale is 0.5; give 1, which is off, or more"),
        ({"clip": 0.0}, "clip is 0.0; it must be above zero"),
        ({"blend": 2.0}, "blend is 2.0; give a share"),
    ):
        with pytest.raises(BadRequest, match=match):
            NormalisedAttention(**settings)
