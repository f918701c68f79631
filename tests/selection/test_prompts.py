"""Prompts and their pictures stay together, and their loss is the plain denoising error."""

import pytest
import torch

from efface import registry
from efface.concepts import Concept, Erasure, ErasureRequest
from efface.diffusion.denoising import Denoiser
from efface.errors import BadRequest
from efface.selection.prompts import PromptCandidates, PromptPictures, draw_latents
from tests.conftest import shared

PROMPTS = ("a photo of a cat", "a red pistol", "house", "a lamp")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def request_for(chosen):
    erasures = tuple(
        Erasure(concept=Concept(name=PROMPTS[place], kind="class")) for place in chosen
    )
    return ErasureRequest(erasures=erasures)


@pytest.fixture(scope="module")
def pictures():
    return draw_latents(shared("tiny_sd1"), PROMPTS, (0, 1), steps=2, guidance=2.0)


def candidates(pictures, **more):
    pipe = shared("tiny_sd1")
    eraser = registry.build("methods", "uce", ridge=1e-3)
    given = {"times": (100, 600), "generator": generator(), **more}
    return PromptCandidates(pipe, PROMPTS, pictures, eraser, request_for, **given)


@pytest.mark.thorough
def test_pictures_belong_to_their_own_prompt(pictures):
    """Drawn alone, each prompt has the latents that it has among others (P1 of the released)."""
    for place, text in enumerate(PROMPTS):
        alone = draw_latents(shared("tiny_sd1"), [text], (0, 1), steps=2, guidance=2.0)
        torch.testing.assert_close(alone.latents[0], pictures.latents[place], atol=1e-4, rtol=1e-4)
    order = torch.tensor([2, 0, 3, 1])
    moved = PromptPictures(tuple(PROMPTS[n] for n in order), pictures.latents[order])
    pipe, eraser = shared("tiny_sd1"), registry.build("methods", "uce", ridge=1e-3)
    turned = PromptCandidates(
        pipe, moved.prompts, moved, eraser, request_for, times=(100, 600), generator=generator()
    )
    torch.testing.assert_close(turned.unedited, candidates(pictures).unedited[order])


def test_the_error_is_the_plain_loss_at_shared_noise(pictures):
    """By hand for one prompt: the mean over pictures and times of |prediction - noise|^2."""
    found = candidates(pictures, asked="error")
    denoiser, total = Denoiser(shared("tiny_sd1")), 0.0
    conditions = denoiser.conditions([PROMPTS[1]])
    for time, noise in zip((100, 600), found._noise, strict=True):
        for clean, own in zip(pictures.latents[1], noise, strict=True):
            signal, share = denoiser.process.signal[time], denoiser.process.noise[time]
            mixed = (signal * clean + share * own).float()
            with denoiser.inference_mode():
                told = denoiser.predict(mixed[None], torch.tensor([float(time)]), conditions)[0]
            total += float((told - own).square().mean())
    assert float(found.losses()[1]) == pytest.approx(total / 4, rel=1e-4)


@pytest.mark.thorough
def test_erased_prompts_rise_and_the_model_comes_back(pictures):
    found = candidates(pictures)
    assert not found.losses().any()
    weights = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    with found.erased(weights, generator=generator()):
        assert found.losses()[1].abs() > 1e-6
    assert not found.losses().any()
    with found.erased(0 * weights, generator=generator()):
        assert not found.losses().any()


def test_what_does_not_fit_is_refused(pictures):
    with pytest.raises(BadRequest, match="prompts and pictures of 4"):
        PromptPictures(PROMPTS[:2], pictures.latents)
    with pytest.raises(BadRequest, match="at times of 0 to 999"):
        candidates(pictures, times=(1000,))
    with (
        pytest.raises(BadRequest, match="sets of prompts"),
        candidates(pictures).erased(torch.full((4,), 0.5), generator=generator()),
    ):
        pass
    with pytest.raises(BadRequest, match="3 names for 4 prompts"):
        pipe, eraser = shared("tiny_sd1"), registry.build("methods", "uce")
        PromptCandidates(pipe, PROMPTS[:3], pictures, eraser, request_for, generator=generator())
