"""Guidance in pictures that are measured: every family's pipeline is told it by its own word."""

import dataclasses

import numpy as np
import pytest
import torch

from efface.contracts import Sample
from efface.errors import BadRequest
from efface.evaluation.drawing import draw, draw_guided, guidance_note, guided_by
from efface.evaluation.images import Source
from efface.guiding.drawing import guide
from efface.hosts.families import HOSTS
from tests.conftest import host, shared

SAMPLES = [Sample("a photo of a pistol", 3, "erased"), Sample("a cat", 4, "general")]
OFF = dataclasses.replace(guide("sld", concepts=("dog",)), strength=0.0)
UNDRAWN = {"pixart", "sanasprint", "zimage"}
"""The pipelines' usual sizes do not fit these toys."""


def pixels(pipe, guidance, samples=SAMPLES):
    return draw(pipe, samples, steps=2, guidance=guidance).pixels


@pytest.mark.slow
@pytest.mark.parametrize("family", [each.key for each in HOSTS if each.key not in UNDRAWN])
def test_pictures_change_with_guidance_or_it_is_said_that_they_do_not(family):
    pipe = shared(f"tiny_{family}")
    weak, strong = draw(pipe, SAMPLES, steps=2, guidance=2.0), pixels(pipe, 6.0)
    note = guidance_note(pipe, 6.0)
    unused = note is not None and "not used" in note
    assert (weak.pixels == strong).all() == unused
    if note is None:  # two passes at every step
        assert weak.evaluations == 4


def test_qwen_image_is_guided_away_from_the_empty_prompt():
    pipe, (one, _) = host("tiny_qwenimage"), SAMPLES
    pipe.default_sample_size = 8
    options = {"num_inference_steps": 2, "output_type": "np"}

    def theirs(**words):
        draws = torch.Generator().manual_seed(one.seed)
        picture = pipe(one.prompt, generator=draws, **options, **words).images
        return (picture.clip(0, 1) * 255).round().astype(np.uint8)

    guided = draw(pipe, [one], steps=2, guidance=4.0)
    assert (guided.pixels == theirs(true_cfg_scale=4.0, negative_prompt="")).all()
    assert guided.evaluations == 4
    plain = draw(pipe, [one], steps=2, guidance=1.0)
    assert (plain.pixels == theirs(true_cfg_scale=1.0)).all()
    assert plain.evaluations == 2
    assert (plain.pixels != guided.pixels).any()
    both = pixels(pipe, 4.0)
    assert np.abs(both[:1].astype(int) - guided.pixels).max() <= 1
    assert guidance_note(pipe, 4.0) is None


def test_pictures_of_qwen_image_that_were_drawn_unguided_are_not_found_again():
    assert guided_by(shared("tiny_qwenimage")) == "true_cfg_scale"
    assert guided_by(shared("tiny_sd1")) == guided_by(shared("tiny_flux")) == ""
    before = Source("model", None, 2, 2.0)
    assert dataclasses.replace(before, guided_by="true_cfg_scale").key != before.key


def test_what_a_distilled_pipeline_does_with_guidance_is_said():
    flux = host("tiny_flux")
    assert "guidance 3.5 is not used" in guidance_note(flux, 3.5)  # as FLUX.1 schnell
    flux.transformer.register_to_config(guidance_embeds=True)
    assert guidance_note(flux, 3.5).startswith("guidance 3.5 is what the distilled network is told")
    with pytest.raises(BadRequest, match="guidance is what the distilled network is told"):
        draw_guided(flux, SAMPLES, [OFF], steps=2, guidance=3.0)
    klein = host("tiny_flux2klein")
    assert guidance_note(klein, 3.5) is None
    klein.register_to_config(is_distilled=True)
    assert "guidance 3.5 is not used" in guidance_note(klein, 3.5)
    with pytest.raises(BadRequest, match="guidance is not used: this pipeline draws without"):
        draw_guided(klein, SAMPLES, [OFF], steps=2, guidance=3.0)
