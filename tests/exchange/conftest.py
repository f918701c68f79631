"""A delta of the toy hosts, and what a denoiser predicts with text of a prompt."""

from functools import cache

import pytest
import torch

from efface.concepts import request as asked
from efface.runs.erasing import erase
from tests.conftest import host, shared
from tests.methods.trained import one_step

REQUEST = asked("pistol", keep=["cat"])
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
OTHER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
KEY, SECOND = f"unet/{LAYER}.weight", f"unet/{OTHER}.weight"


@pytest.fixture(scope="package")
def base():
    """A pipeline that tests leave as it is."""
    return host("tiny_sd1")


def matrices(base, layer=LAYER, rank=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    weight = base.unet.get_parameter(f"{layer}.weight")
    up = torch.randn(len(weight), rank, generator=draw)
    return up, torch.randn(rank, weight.shape[1], generator=draw)


@pytest.fixture(params=["tiny_sd1", pytest.param("tiny_sd2", marks=pytest.mark.slow)])
def pipe(request):
    """A pipeline that the test may change."""
    return host(request.param)


@pytest.fixture
def delta(pipe, request):
    """A delta of the pipeline; tests do not change it."""
    return erased(request.node.callspec.params["pipe"])


@cache
def erased(name):
    """Erases from a toy pipeline once."""
    return erase(shared(name), REQUEST, method="uce").delta


@cache
def trained_membrane(name, concept="pistol", rate=0.05):
    """Trains a membrane of a toy pipeline once."""
    settings = {"anchors": 0, "optimiser": "adam", "learning_rate": rate}
    wanted = REQUEST if concept == "pistol" else asked(concept)
    return one_step("spm", shared(name), wanted, **settings).delta


def predicted(pipe, embeddings=None):
    """Predicts noise for a prompt, or for embeddings of one."""
    if embeddings is None:
        ids = pipe.tokenizer("a pistol", padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            embeddings = pipe.text_encoder(ids)[0]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return pipe.unet(noise, 500, encoder_hidden_states=embeddings).sample


def with_delta(pipe, delta, scale=1.0):
    with delta.apply(pipe, scale=scale):
        return predicted(pipe)
