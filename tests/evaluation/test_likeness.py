"""Sound and wrecked models are told apart: the statistic by hand, the thresholds as committed."""

import json
from pathlib import Path

import pytest
import torch

import benchmarks
from efface.evaluation.likeness import (
    LEAST_OWN,
    LEAST_SEEN,
    ROUGHNESS,
    Likeness,
    likeness,
    roughness,
    thumbnails,
)
from efface.runs.checks import COLLAPSE

ROWS = json.loads(
    (Path(benchmarks.__file__).parent / "results" / "collapse.json").read_text("utf-8")
)["rows"]


def of(before, after):
    small = thumbnails(before), thumbnails(after)
    return likeness(small, (roughness(before), roughness(after)))


def pictures():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_same_pictures_are_their_own():
    assert of(pictures(), 0.7 * pictures()).own == 1
    assert of(pictures(), pictures()) == Likeness(6, 1.0, 1.0)
    assert of(pictures(), pictures()).complaints() == ()


@pytest.mark.parametrize("wreck", ["one for all", "blank", "swapped"])
def test_wrecks_are_nobodys(wreck):
    before = pictures()
    after = {
        "one for all": before[:1].expand_as(before),
        "blank": torch.full_like(before, 0.5),
        "swapped": before.roll(1, 0),
    }[wreck]
    assert of(before, after).own <= 1 / 6
    assert "nearest to those of the same prompt and seed" in of(before, after).complaints()[0]


def test_noise_over_the_same_picture_is_rough():
    flat = pictures()[..., :1, :1].expand(6, 3, 32, 32) + 0.01 * pictures()
    noisy = flat + 0.1 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1))
    found = of(flat, noisy)
    assert found.own == 1
    assert "times as rough as before" in found.complaints()[0]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_thresholds_part_what_was_measured(row):
    """No sound edit fails a check; every wreck fails one, and all but one without a judge."""
    low, high = ROUGHNESS
    alone = row["own"] >= LEAST_OWN and low <= row["roughness"] <= high
    judged = row["seen"] >= LEAST_SEEN
    assert (alone and judged) == (row["kind"] == "sound")
    if row["name"] != "noise of 0.3 in the U-Net":
        assert alone == judged
    if row["kind"] == "sound":
        assert row["kept_response"] < COLLAPSE / 2
