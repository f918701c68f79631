"""Relearning on a toy: it learns, looks when asked, and leaves the model as it was."""

import pytest
import torch

from efface.diffusion.denoising import Denoiser
from efface.errors import BadModel, BadRequest
from efface.training.relearning import (
    Relearning,
    denoising_error,
    encoded_pictures,
    relearn,
)
from tests.conformance.snapshots import differences, snapshot
from tests.methods.trained import ran

PROMPTS = ("a pistol", "a small pistol", "one pistol")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def clean():
    return torch.randn(3, 4, 8, 8, generator=generator(5))


def error_now(pipe, clean):
    """The error of the model as it is, on many fixed noise levels."""
    denoiser = Denoiser(pipe)
    which = torch.arange(3).repeat(32)
    with denoiser.inference_mode():
        conditions = denoiser.conditions(PROMPTS)
        return float(denoising_error(denoiser, clean, conditions, which, generator(7)))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "how", [{"rank": 2, "learning_rate": 2e-2}, {"rank": 0, "role": "unet", "learning_rate": 1e-3}]
)
def test_the_error_falls_while_it_learns_and_the_model_stays(tiny_sd1, clean, how):
    before, seen = snapshot(tiny_sd1), {}
    errors = relearn(
        tiny_sd1,
        clean,
        PROMPTS,
        Relearning(steps=12, batch=24, **how),
        generator=generator(),
        at=(0, 4, 12),
        look=lambda step: seen.update({step: error_now(tiny_sd1, clean)}),
    )
    assert len(errors) == 12
    assert seen[0] == error_now(tiny_sd1, clean)
    assert seen[12] < seen[4] < seen[0]
    assert not differences(before, snapshot(tiny_sd1))


@pytest.mark.thorough
def test_looking_changes_nothing_of_what_is_learnt(tiny_sd1, clean):
    settings = Relearning(steps=3, rank=1)
    watched = relearn(
        tiny_sd1,
        clean,
        PROMPTS,
        settings,
        generator=generator(),
        at=range(4),
        look=lambda _: error_now(tiny_sd1, clean),
    )
    assert watched == relearn(tiny_sd1, clean, PROMPTS, settings, generator=generator())
    assert watched != relearn(tiny_sd1, clean, PROMPTS, settings, generator=generator(1))


@pytest.mark.thorough
def test_it_starts_from_the_edited_model_and_leaves_the_edit_in_force(tiny_sd1, clean):
    delta = ran("esd", tiny_sd1, steps=2, keep_weight=0.0).delta
    settings = Relearning(steps=1)
    unedited = relearn(tiny_sd1, clean, PROMPTS, settings, generator=generator())
    with delta.apply(tiny_sd1):
        before = snapshot(tiny_sd1)
        edited = relearn(tiny_sd1, clean, PROMPTS, settings, generator=generator())
        assert not differences(before, snapshot(tiny_sd1))
    assert edited != unedited


def test_a_perfect_prediction_has_no_error(tiny_sd1, clean, monkeypatch):
    """A network that answers the very noise: the error is zero whatever the time."""
    denoiser, said = Denoiser(tiny_sd1), []
    truth = type(denoiser.process).truth

    def remembered(process, *given):
        said.append(truth(process, *given))
        return said[-1]

    monkeypatch.setattr(type(denoiser.process), "truth", remembered)
    monkeypatch.setattr(Denoiser, "predict", lambda *_: said[-1] + 0.5)
    conditions = denoiser.conditions(PROMPTS)
    error = denoising_error(denoiser, clean, conditions, torch.arange(3), generator())
    assert error == pytest.approx(0.25)


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_pictures_become_the_latents_that_the_autoencoder_decodes(family):
    from efface.hosts.families import tiny_pipeline

    pipe = tiny_pipeline(family)
    pictures = torch.rand(2, 3, 16, 16, generator=generator(3))
    latents = encoded_pictures(pipe, pictures)
    mean = pipe.vae.encode(2 * pictures - 1).latent_dist.mode()
    raw = latents / pipe.vae.config.scaling_factor + (0.1 if family == "sd3" else 0.0)
    assert torch.allclose(raw, mean, atol=1e-6)


def test_what_cannot_be_meant_is_refused(tiny_sd1, clean):
    with pytest.raises(BadRequest, match="3 pictures and 1 prompts"):
        relearn(tiny_sd1, clean, ("a pistol",), Relearning(), generator=generator())
    with pytest.raises(BadRequest, match="after step 9 of 3"):
        settings = Relearning(steps=3)
        relearn(tiny_sd1, clean, PROMPTS, settings, generator=generator(), at=(0, 9))
    with pytest.raises(BadRequest, match="rank is -1"):
        Relearning(rank=-1)
    with pytest.raises(BadRequest, match="learning_rate is 0"):
        Relearning(learning_rate=0.0)
    with pytest.raises(BadRequest, match="from 0 to 255"):
        encoded_pictures(tiny_sd1, torch.tensor([0.0, 255.0]).expand(1, 3, 4, 2))
    with pytest.raises(BadModel, match="no vae"):
        encoded_pictures(object(), torch.zeros(1, 3, 8, 8))
