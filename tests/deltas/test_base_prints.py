"""Whole bases told apart: every weight counts, rounding to another dtype does not."""

from dataclasses import replace

import pytest
import torch

import efface
from efface.deltas.base_prints import base_prints, differing
from efface.deltas.delta import Delta
from efface.deltas.patches import DensePatch
from efface.deltas.provenance import sketch_deviation
from efface.errors import BadDelta
from efface.hosts.families import tiny_pipeline
from efface.hosts.streaming import stream
from tests.conftest import host
from tests.deltas.toys import KEY, delta, drawn, toy


@pytest.mark.thorough
def test_a_folder_a_copy_in_half_and_the_pipeline_are_one_base(tmp_path):
    for family in ("sd1", "sd3", "pixart"):
        pipe = tiny_pipeline(family)
        pipe.save_pretrained(tmp_path / family)
        prints = base_prints(pipe)
        streamed = base_prints(stream(tmp_path / family))
        assert streamed == {name: one for name, one in prints.items() if name != "vae"}
        for dtype in (torch.float16, torch.bfloat16):
            assert differing(base_prints(tiny_pipeline(family, dtype=dtype)), prints) == []


def test_any_other_weights_are_another_base():
    expected = base_prints(host("tiny_sd1"))
    assert differing(base_prints(host("tiny_sd1", seed=1)), expected) == list(expected)
    for value in (0.0, float("nan")):
        pipe = host("tiny_sd1")
        pipe.vae.decoder.conv_in.weight.data.fill_(value)
        assert differing(base_prints(pipe), expected) == ["vae"]
    pipe = host("tiny_sd1")
    pipe.unet.conv_in.weight.data.copy_(pipe.unet.conv_in.weight.flip(0))
    assert differing(base_prints(pipe), expected) == ["unet"]


def test_prints_are_of_the_base_without_what_is_applied_and_are_kept_in_the_file(tmp_path):
    pipe = host("tiny_sd1")
    expected = base_prints(pipe)
    first = efface.erase(pipe, "pistol", keep=["cat"], method="uce").delta
    assert first.provenance.base_prints == expected
    with first.apply(pipe):
        assert base_prints(pipe) == expected
    first.save(tmp_path / "delta.safetensors")
    assert Delta.load(tmp_path).provenance.base_prints == expected
    old = replace(first, provenance=replace(first.provenance, base_prints={}))
    assert old.id == first.id
    old.save(tmp_path / "delta.safetensors")
    assert Delta.load(tmp_path).provenance.base_prints == {}


def test_a_sketch_that_is_not_finite_fits_no_base():
    nan = float("nan")
    assert sketch_deviation((nan,), (1.0,)) == sketch_deviation((1.0,), (nan,)) == float("inf")
    model = toy()
    model.unet.block.attn2.to_k.weight.data[0, 0] = nan
    made = delta(model, {KEY: DensePatch(drawn(0, 4, 6))})
    for base in (model, toy()):
        with pytest.raises(BadDelta, match="differs from it by inf"):
            made.apply(base)
