"""Encoding with gradients, from embeddings and with a prefix, on every family."""

import pytest
import torch

from efface.errors import BadModel, BadRequest
from efface.hosts.families import FAMILIES, host_of
from efface.hosts.streaming import stream
from tests.conftest import host
from tests.reference.language import LANGUAGE

ENCODERS = {
    "sd1": ("text_encoder",),
    "sd2": ("text_encoder",),
    "sdxl": ("text_encoder", "text_encoder_2"),
    "sd3": ("text_encoder", "text_encoder_2", "text_encoder_3"),
    "flux": ("text_encoder", "text_encoder_2"),
    "pixart": ("text_encoder",),
    "auraflow": ("text_encoder",),
    "chroma": ("text_encoder",),
    "wan": ("text_encoder",),
}
"""Families that take embeddings in place of words, with their encoders."""


def test_all_other_families_read_prompts_within_an_instruction():
    assert {*ENCODERS, *LANGUAGE} == {*FAMILIES}


@pytest.fixture(scope="module", params=ENCODERS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def known(family):
    return host_of(host(f"tiny_{family}"))


def close(one, other):
    same = torch.allclose(one.rows, other.rows, atol=1e-5)
    return same and (one.pooled is None or torch.allclose(one.pooled, other.pooled, atol=1e-5))


def word(known, encoder, text):
    """Gives the input embeddings of a text's tokens, without begin, end and padding."""
    tokenizer = getattr(known.model, encoder.replace("text_encoder", "tokenizer"))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return getattr(known.model, encoder).get_input_embeddings().weight[ids].detach()


def test_a_batch_is_encoded_as_its_prompts_are(known):
    both = known.encode(["a cat", "pistol"])
    assert close(both[[0]], known.encode(["a cat"]))
    assert close(both[[1]], known.encode(["pistol"]))
    assert not both.rows.requires_grad


def test_a_prefix_of_a_words_embeddings_is_that_word(known, family):
    prefix = {encoder: word(known, encoder, "red") for encoder in ENCODERS[family]}
    assert close(known.encode(["cat"], prefix=prefix), known.encode(["red cat"]))
    assert not close(known.encode(["cat"]), known.encode(["red cat"]))


def test_embeddings_stand_in_for_the_tokens(known, family):
    encoder = ENCODERS[family][0]
    tokens = known.readers[0].streams[0] if family != "flux" else known.readers[1].streams[0]
    ids = torch.tensor([tokens.tokenised("a dog").ids])
    table = getattr(known.model, encoder).get_input_embeddings().weight
    given = {encoder: table[ids].detach()}
    found = known.encode(["a cat"], embeddings=given)
    if len(ENCODERS[family]) == 1:
        assert close(found, known.encode(["a dog"]))
    assert not close(found, known.encode(["a cat"]))


def test_gradients_reach_the_prefix_and_the_encoder(known, family):
    encoder = ENCODERS[family][0]
    prefix = word(known, encoder, "red").requires_grad_()
    network = getattr(known.model, encoder)
    found = known.encode(["cat"], gradients=True, prefix={encoder: prefix})
    read = found.rows if family != "flux" else found.pooled
    read.square().sum().backward()
    assert bool((prefix.grad != 0).any())
    assert any(weight.grad is not None for weight in network.parameters())
    network.zero_grad()
    assert not network.training


def test_what_does_not_fit_is_refused(known, family):
    encoder = ENCODERS[family][0]
    width = word(known, encoder, "red").shape[1]
    with pytest.raises(BadRequest, match="600 embeddings before it is longer"):
        known.encode(["cat"], prefix={encoder: torch.zeros(600, width)})
    with pytest.raises(BadRequest, match="batch, tokens, values"):
        known.encode(["cat"], embeddings={encoder: torch.zeros(1, 2, width)})


def test_encoders_that_run_from_files_refuse_gradients(tmp_path):
    host("tiny_sd1").save_pretrained(tmp_path)
    streamed = host_of(stream(tmp_path))
    with pytest.raises(BadModel, match="load the whole model"):
        streamed.encode(["cat"], gradients=True)
