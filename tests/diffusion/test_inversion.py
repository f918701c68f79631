"""Pictures go back to noise and come again, alike with erasures that hold the empty prompt."""

import pytest
import torch

import efface
from efface.diffusion.denoising import Denoiser
from efface.diffusion.inversion import inverted, redrawn
from efface.errors import BadModel
from tests.conftest import host
from tests.methods.trained import ran


@pytest.mark.thorough
@pytest.mark.parametrize("model", ["toy", pytest.param("emoji", marks=pytest.mark.slow)])
def test_a_picture_comes_again_from_its_noise(model):
    denoiser = Denoiser(host("tiny_sd1") if model == "toy" else efface.load(model))
    generator = torch.Generator().manual_seed(0)
    asked = denoiser.conditions(["a twemoji emoji of a cat"])
    start = torch.randn(1, *denoiser.latent_shape, generator=generator)
    clean = redrawn(denoiser, start, asked, steps=40, guidance=1.0)
    noise = inverted(denoiser, clean, asked, steps=40)
    again = redrawn(denoiser, noise, asked, steps=40, guidance=1.0)
    assert float((again - clean).norm() / clean.norm()) < 0.2
    elsewhere = torch.randn(1, *denoiser.latent_shape, generator=generator)
    other = redrawn(denoiser, elsewhere, asked, steps=40, guidance=1.0)
    assert float((other - clean).norm() / clean.norm()) > 0.5


@pytest.mark.thorough
def test_an_erasure_that_holds_the_empty_prompt_inverts_alike(tiny_sd1):
    denoiser = Denoiser(tiny_sd1)
    clean = 0.2 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    empty = denoiser.conditions([""])
    before = inverted(denoiser, clean, empty, steps=4)
    settings = {"mode": "negate", "constraint": "projection", "keep_weight": 0.0}
    delta = ran("all_but_one", tiny_sd1, **settings).delta
    with delta.apply(tiny_sd1):
        after = inverted(Denoiser(tiny_sd1), clean, empty, steps=4)
    assert torch.allclose(before, after, atol=1e-3)


def test_flows_are_refused():
    pipe = host("tiny_sd3")
    denoiser = Denoiser(pipe)
    with pytest.raises(BadModel, match="flow"):
        inverted(denoiser, torch.zeros(1, 4, 8, 8), denoiser.conditions([""]), steps=2)
