"""Masks from maps by four rules, and layouts that users give."""

import pytest
import torch
from PIL import Image

from efface.errors import BadRequest
from efface.guiding.masks import MASK_LEVELS, binarised, layout_masks

MAP = torch.tensor([[0.0, 0.1, 0.1], [0.2, 0.9, 0.5], [0.1, 1.0, 0.45]], dtype=torch.float64)


def test_half_the_peak_by_hand():
    expected = torch.tensor([[0, 0, 0], [0, 1, 1], [0, 1, 0]]).double()
    assert torch.equal(binarised(MAP, "half", 0.5), expected)


def test_the_highest_share_of_pixels():
    assert binarised(MAP, "top", 1 / 3).sum() == 3
    assert torch.equal(binarised(MAP, "top", 0.0001), (MAP == 1.0).double())


def test_deviations_above_the_mean_by_hand():
    limit = float(MAP.mean()) + 1.0 * float(MAP.std(correction=0))
    assert torch.equal(binarised(MAP, "mean_std", 1.0), (limit <= MAP).double())


def test_otsu_equals_trying_every_threshold():
    values = torch.rand(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    best = max(
        values.sort().values[1:],
        key=lambda cut: float(
            (values < cut).sum()
            * (values >= cut).sum()
            * (values[values >= cut].mean() - values[values < cut].mean()) ** 2
        ),
    )
    assert torch.equal(
        binarised(values.view(4, 4), "otsu", 0.0).flatten(), (values >= best).double()
    )


@pytest.mark.parametrize("rule", MASK_LEVELS)
def test_every_rule_masks_each_map_by_itself_and_without_gradients(rule):
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = binarised(maps, rule, MASK_LEVELS[rule])
    assert not found.requires_grad
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(found[1, 2], binarised(maps[1, 2], rule, MASK_LEVELS[rule]))
    peaks = maps.flatten(-2).argmax(dim=-1, keepdim=True)
    assert found.flatten(-2).gather(-1, peaks).all()


@pytest.mark.parametrize("rule", MASK_LEVELS)
def test_a_constant_map_has_a_mask_with_its_peak(rule):
    assert binarised(torch.full((4, 4), 0.2), rule, MASK_LEVELS[rule]).any()


def test_boxes_cover_pixels_by_half():
    masks = layout_masks(("cat=0,0,0.5,1", "big dog=0.625,0,1,0.5"), size=(2, 4), picture=(64, 64))
    assert masks["cat"].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert masks["big dog"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]


def test_painted_masks_are_read_at_the_size_of_the_picture(tmp_path):
    painted = Image.new("L", (64, 32))
    painted.paste(255, (0, 0, 32, 32))
    painted.save(tmp_path / "left.png")
    (mask,) = layout_masks(
        (f"cat={tmp_path / 'left.png'}",), size=(2, 4), picture=(32, 64)
    ).values()
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    with pytest.raises(BadRequest, match="is 32 x 64 and the picture 64 x 64 pixels"):
        layout_masks((f"cat={tmp_path / 'left.png'}",), size=(2, 4), picture=(64, 64))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("cat", "is not read; write word=left"),
        ("=0,0,1,1", "is not read"),
        ("cat=0,0,1", "has no four numbers"),
        ("cat=0,0,a,1", "has no four numbers"),
        ("cat=0.5,0,1.2,1", "off the picture or empty"),
        ("cat=-0.1,0,1,1", "off the picture or empty"),
        ("cat=0.5,0,0.5,1", "off the picture or empty"),
        ("cat=nan,0,1,1", "off the picture or empty"),
        ("cat=0,0,0.1,0.1", "covers half of no pixel of the 4 x 4 maps"),
        ("cat=nowhere.png", "cannot be read"),
    ],
)
def test_layouts_that_cannot_be_meant_are_refused(layout, message):
    with pytest.raises(BadRequest, match=message):
        layout_masks((layout,), size=(4, 4), picture=(64, 64))


def test_a_word_has_one_layout():
    with pytest.raises(BadRequest, match="name 'cat' twice"):
        layout_masks(("cat=0,0,1,1", "cat=0,0,0.5,1"), size=(4, 4), picture=(64, 64))
