"""Figures of attention: the picture of the same seed, its words' maps, layouts over them."""

import numpy as np
import pytest
import torch
from PIL import Image

from efface import registry
from efface.errors import BadRequest
from efface.guiding.drawing import draw
from efface.guiding.watching import watched
from efface.reports.attention import attention_figure
from tests.conftest import shared

PROMPT, WORDS = "a cat and a dog", ("cat", "dog")


def guide(**settings):
    return registry.build("guides", "a_star", words=WORDS, **settings)


def seen(guides, **options):
    options = {"words": WORDS, "seed": 3, "steps": 4, "guidance": 5.0} | options
    return watched(shared("tiny_sd1"), guides, PROMPT, **options)


@pytest.mark.thorough
def test_watching_changes_no_picture():
    for guides in ([], [guide()]):
        found = seen(guides)
        plain = draw(shared("tiny_sd1"), guides, [(PROMPT, 3)], steps=4, guidance=5.0)
        assert np.array_equal(found.pixels.numpy(), plain.pixels[0])


@pytest.mark.thorough
def test_maps_are_those_of_each_word_at_each_share_of_the_run():
    found = seen([], shares=(0.0, 0.5), resolution=8)
    assert found.maps.shape == (2, 2, 8, 8)
    alone = seen([], words=("dog",), shares=(0.0, 0.5), resolution=8)
    assert torch.allclose(found.maps[:, 1:], alone.maps, atol=1e-6)
    late = seen([], shares=(0.5,), resolution=8)
    assert torch.allclose(found.maps[1:], late.maps, atol=1e-6)
    led = seen([guide(step_size=200.0)], shares=(0.0,), resolution=8)
    assert not torch.allclose(led.maps, found.maps[:1], atol=1e-4)


@pytest.mark.parametrize("shares", [(), (1.0,), (-0.1,)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(BadRequest, match="give shares of the run, from 0 to below 1"):
        seen([], shares=shares)


@pytest.mark.thorough
def test_a_figure_has_a_row_for_each_way_and_shows_layouts(tmp_path):
    layouts = ("cat=0,0,0.5,1",)
    rows = {"plain": seen([]), "a_star": seen([guide(layouts=layouts)])}
    bare = attention_figure(rows, tmp_path / "bare.png", title=PROMPT)
    outlined = attention_figure(rows, tmp_path / "layouts.png", title=PROMPT, layouts=layouts)
    one, other = (np.asarray(Image.open(path).convert("RGB")) for path in (bare, outlined))
    assert one.shape == other.shape
    changed = (one != other).any(axis=(1, 2)).nonzero()[0]
    assert changed.min() > one.shape[0] // 2
    single = attention_figure({"plain": rows["plain"]}, tmp_path / "single.png")
    assert Image.open(single).height < one.shape[0]


@pytest.mark.thorough
def test_rows_of_other_words_are_refused(tmp_path):
    rows = {"one": seen([]), "other": seen([], words=("dog",))}
    for given in (rows, {}):
        with pytest.raises(BadRequest, match="rows of a figure of attention have the same words"):
            attention_figure(given, tmp_path / "never.png")
