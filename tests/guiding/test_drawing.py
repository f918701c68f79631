"""Pictures with guides: those of the pipeline where guides are off, seeds, warnings, refusals."""

import math

import numpy as np
import pytest
import torch

import efface
from efface.contracts import Sample
from efface.errors import BadModel, BadRequest
from efface.evaluation.drawing import draw as drawn_by_pipeline
from efface.guiding import drawing
from tests.conftest import host, shared
from tests.guiding.toys import PROMPTS

OFF = efface.guide("nag", blend=0.0)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3"])
def test_with_a_guide_that_is_off_it_draws_what_the_pipeline_draws(family):
    pipe = shared(f"tiny_{family}")
    off = efface.guide("sld", concepts=("dog",), strength=0.0)
    ours = efface.guided(pipe, off, PROMPTS, seed=3, steps=3, guidance=3.0)
    samples = [Sample(prompt, 3, "general") for prompt in PROMPTS]
    theirs = drawn_by_pipeline(pipe, samples, steps=3, guidance=3.0)
    assert np.abs(ours.pixels.astype(int) - theirs.pixels.astype(int)).max() <= 1
    assert ours.evaluations == theirs.evaluations == 6
    assert all(math.isnan(change) for change in ours.changes["sld"])
    assert ours.unmoved() == ()


def test_without_guidance_flux_draws_what_its_pipeline_draws():
    pipe = shared("tiny_flux")
    ours = efface.guided(pipe, [], ["a cat"], steps=3, guidance=1.0)
    theirs = drawn_by_pipeline(pipe, [Sample("a cat", 0, "general")], steps=3, guidance=3.5)
    assert np.abs(ours.pixels.astype(int) - theirs.pixels.astype(int)).max() <= 1


@pytest.mark.thorough
def test_pictures_of_a_prompt_have_seeds_in_order_whatever_the_batch(monkeypatch):
    pipe, guide = shared("tiny_sd1"), efface.guide("negative", text="a red house")
    several = efface.guided(pipe, guide, PROMPTS, seed=5, pictures=2, steps=3, guidance=3.0)
    assert several.prompts == ("a cat", "a cat", "a dog", "a dog")
    monkeypatch.setattr(drawing, "PICTURES_A_PASS", 3)
    again = efface.guided(pipe, guide, PROMPTS, seed=5, pictures=2, steps=3, guidance=3.0)
    alone = efface.guided(pipe, guide, "a dog", seed=6, steps=3, guidance=3.0)
    for one, other in ((again.pixels, several.pixels), (alone.pixels[0], several.pixels[3])):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
    assert len(again.changes["negative"]) == 4
    assert len(several.images) == 4


def test_a_guide_that_changes_nothing_warns_with_its_name_and_prompt():
    guide = efface.guide("nag", text="a dog")
    with pytest.warns(UserWarning, match=r"nag changed nothing .* in 1 of 2 .*'a dog'"):
        efface.guided(shared("tiny_sd1"), guide, PROMPTS, steps=2, guidance=3.0)


def test_a_guide_by_its_name_has_its_defaults():
    with pytest.raises(BadRequest, match="sld has nothing to steer by"):
        efface.guided(shared("tiny_sd1"), "sld", PROMPTS)
    with pytest.raises(BadRequest, match="no guide called 'slt'; did you mean sld"):
        efface.guided(shared("tiny_sd1"), ["slt"], PROMPTS)


def test_nothing_to_draw_is_refused():
    pipe = shared("tiny_sd1")
    with pytest.raises(BadRequest, match="there is no prompt to draw"):
        efface.guided(pipe, OFF, [])
    for given in ({"steps": 0}, {"pictures": 0}):
        with pytest.raises(BadRequest, match="give at least one of both"):
            efface.guided(pipe, OFF, PROMPTS, **given)


def test_pictures_that_are_not_finite_are_an_error():
    pipe = host("tiny_sd1")
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight.fill_(math.nan)
    with pytest.raises(BadModel, match="with nag the model draws pictures that are not finite"):
        efface.guided(pipe, OFF, PROMPTS, steps=1)


@pytest.mark.parametrize("given", [None, 3, {}, [None], [efface.guide]])
def test_what_is_no_guide_is_refused_by_what_to_give(given):
    with pytest.raises(BadRequest, match=r"is no guide; give efface.guide\('sld'"):
        drawing.guides_of(given)
