"""Layers of a text encoder by part and number."""

from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from efface.errors import BadRequest
from efface.hosts.families import tiny_pipeline
from efface.hosts.text_layers import text_layers

WIDTH, HIDDEN, LAYERS = 8, 12, 12


@pytest.fixture
def deep():
    """Twelve layers, so that 1 is a beginning of 10 and 11."""
    config = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        vocab_size=10,
    )
    with torch.device("meta"):
        return SimpleNamespace(text_encoder=CLIPTextModel(config))


def elements(parameters):
    return sum(weight.numel() for weight in parameters.values())


def test_counts_are_those_of_the_papers_formula(deep):
    """L (2df + f + d) for feed-forward layers and 4 (d^2 + d) for one attention."""
    feed = 2 * WIDTH * HIDDEN + HIDDEN + WIDTH
    attention = 4 * (WIDTH**2 + WIDTH)
    norms = 4 * WIDTH
    assert elements(text_layers(deep, "feed_forward")) == LAYERS * feed
    assert elements(text_layers(deep, "attention", layers=[-1])) == attention
    assert elements(text_layers(deep, layers=[0, 1])) == 2 * (feed + attention + norms)


def test_layer_one_is_not_ten_or_eleven(deep):
    assert {key.split(".")[2] for key in text_layers(deep, layers=[1])} == {"1"}


def test_the_last_layer_counts_from_the_end(deep):
    assert text_layers(deep, layers=[-1]).keys() == text_layers(deep, layers=[11]).keys()


def test_keys_have_no_level_that_library_versions_insert(deep):
    assert all(key.startswith("text_encoder/encoder.layers.") for key in text_layers(deep))


def test_a_layer_that_is_not_there_is_refused(deep):
    with pytest.raises(BadRequest, match="layers 0 to 11; there is no layer 12"):
        text_layers(deep, layers=[12])


def test_an_encoder_of_another_kind_is_refused():
    with pytest.raises(BadRequest, match="text_encoder_3 is not a CLIP text encoder"):
        text_layers(tiny_pipeline("sd3"), encoder="text_encoder_3")
