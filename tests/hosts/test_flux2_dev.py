"""FLUX.2 dev: padding on either side, a processor around the tokenizer, and guidance told."""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from efface.errors import BadModel
from efface.hosts.families import host_of, layout
from efface.hosts.loading import load
from efface.hosts.streaming import stream
from tests.conftest import host, shared

PROMPT = "a zebra and a cat"


def rows_of(pipe):
    return host_of(pipe).readers[0].streams[0]


@pytest.mark.parametrize("family", [pytest.param("flux2klein", marks=pytest.mark.slow), "flux2dev"])
def test_padding_is_read_on_the_side_on_which_the_tokenizer_puts_it(family):
    pipe = shared(f"tiny_{family}")
    side = pipe.tokenizer.padding_side
    try:
        for pipe.tokenizer.padding_side in ("left", "right"):
            with torch.no_grad():
                rows, _ = pipe.encode_prompt(PROMPT)
            found = rows_of(pipe)
            assert torch.allclose(found.embedded([PROMPT])[0].float(), rows[0], atol=1e-5)
            cat, _ = found.span(PROMPT, "cat")
            told = found.tokenised(PROMPT)
            assert pipe.tokenizer.decode(told.ids[cat]).strip() == "cat"
            assert (told.read, told.last) == (512, cat)
            assert (cat > 480) == (pipe.tokenizer.padding_side == "left")
    finally:
        pipe.tokenizer.padding_side = side


def test_the_transformer_is_told_the_guidance_and_the_processor_has_the_tokenizer_inside():
    pipe = shared("tiny_flux2dev")
    assert pipe.transformer.config.guidance_embeds
    told, network = [], pipe.transformer
    handle = network.register_forward_pre_hook(
        lambda _, __, named: told.append(named["guidance"]), with_kwargs=True
    )
    known = host_of(pipe)
    try:
        with torch.no_grad():
            known.probe("a cat")
    finally:
        handle.remove()
    assert [each.tolist() for each in told] == [[4.0]]
    processor = SimpleNamespace(
        tokenizer=pipe.tokenizer, apply_chat_template=pipe.tokenizer.apply_chat_template
    )
    wrapped = SimpleNamespace(**{**pipe.components, "tokenizer": processor})
    mine, theirs = rows_of(pipe), rows_of(wrapped)
    assert mine.tokenised(PROMPT) == theirs.tokenised(PROMPT)


@pytest.mark.slow
def test_a_folder_s_processor_is_not_needed_to_read_text_from_it(tmp_path):
    """Its class needs torchvision, for pictures; the tokenizer lies in the same folder."""
    pipe = host("tiny_flux2dev")
    pipe.save_pretrained(tmp_path)
    file = tmp_path / "model_index.json"
    index = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(index | {"tokenizer": ["transformers", "PixtralProcessor"]}))
    if find_spec("torchvision") is None:
        with pytest.raises(BadModel, match="needs torchvision: install it"):
            load(tmp_path)
    streamed = stream(tmp_path)
    assert layout(streamed) == "flux2dev"
    expected = rows_of(pipe).embedded([PROMPT])
    assert torch.equal(rows_of(streamed).embedded([PROMPT]), expected)
