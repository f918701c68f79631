"""The empty prompt stays the unedited encoder's: exact, saved, composed, refused in weights."""

import pytest
import torch

from efface.concepts import request
from efface.deltas.delta import Delta
from efface.errors import BadDelta, BadRequest
from tests.conftest import shared
from tests.methods.test_few_shot import ran


def encoded(pipe, prompts, negative):
    with torch.no_grad():
        return pipe.encode_prompt(
            prompts, "cpu", 1, do_classifier_free_guidance=True, negative_prompt=negative
        )


@pytest.mark.thorough
def test_the_unedited_encoder_reads_the_empty_prompt_exactly(tiny_sd1, tmp_path):
    """As the pipeline asks it, also in a batch and after saving; all else is edited."""
    edited = ran(tiny_sd1).delta
    ran(tiny_sd1, unconditional="original").delta.save(tmp_path / "delta.safetensors")
    delta = Delta.load(tmp_path)
    assert delta.empty_prompt == "original"
    assert delta.id != edited.id
    before, empty = encoded(tiny_sd1, ["pistol", ""], ["", ""])
    with edited.apply(tiny_sd1):
        changed = encoded(tiny_sd1, ["pistol", ""], ["", "blurry"])
    with delta.apply(tiny_sd1):
        after, unconditional = encoded(tiny_sd1, ["pistol", ""], ["", ""])
        blurry = encoded(tiny_sd1, ["pistol", ""], ["", "blurry"])[1]
    assert torch.equal(unconditional, empty)
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[0], changed[0][0])
    assert not torch.equal(after[0], before[0])
    assert torch.equal(blurry[1], changed[1][1])
    assert torch.equal(encoded(tiny_sd1, ["pistol", ""], ["", ""])[0], before)
    assert not tiny_sd1.text_encoder._forward_hooks


def test_weights_that_cannot_hold_the_empty_prompt_are_refused(tiny_sd1, tmp_path):
    from efface.deltas.edited_copy import edited_copy
    from efface.exchange.low_rank import layers_of

    delta = ran(tiny_sd1, unconditional="original").delta
    for write in (
        lambda: delta.merge_into(tiny_sd1),
        lambda: layers_of(delta, tiny_sd1, rank=2),
        lambda: edited_copy(tmp_path / "base", delta, tmp_path / "out"),
    ):
        with pytest.raises(BadDelta, match=r"apply it when drawing.*--unconditional edited"):
            write()


@pytest.mark.thorough
def test_deltas_that_keep_the_empty_prompt_compose_and_do_not_lie_on_one_another(tiny_sd1):
    from efface.deltas.composition import compose

    one = ran(tiny_sd1, unconditional="original").delta
    other = ran(tiny_sd1, request("house", keep=["cat"]), unconditional="original").delta
    plain = ran(tiny_sd1, request("tree", keep=["cat"])).delta
    with one.apply(tiny_sd1), pytest.raises(BadDelta, match="compose the two"):
        other.apply(tiny_sd1)
    both = compose([one, other])
    assert both.empty_prompt == "original"
    with pytest.raises(BadDelta, match="same --unconditional"):
        compose([one, plain])
    before = encoded(tiny_sd1, ["pistol"], [""])[1]
    with both.apply(tiny_sd1):
        assert torch.equal(encoded(tiny_sd1, ["pistol"], [""])[1], before)


def test_a_bare_encoder_cannot_tell_the_empty_prompt(tiny_sd1):
    from types import SimpleNamespace

    delta = ran(tiny_sd1, unconditional="original").delta
    parts = SimpleNamespace(text_encoder=tiny_sd1.text_encoder)
    with pytest.raises(BadDelta, match="needs the pipeline's tokenizer"):
        delta.apply(parts)
    assert not tiny_sd1.text_encoder._forward_hooks


def test_xl_is_refused_where_its_empty_prompt_cannot_stay_exactly():
    with pytest.raises(BadRequest, match=r"XL does not; set unconditional to edited"):
        ran(shared("tiny_sdxl"), unconditional="original")
