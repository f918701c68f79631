"""Runs with guides on toy pipelines."""

from functools import cache

import torch

from efface import registry
from efface.concepts import request
from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import denoise
from efface.diffusion.trajectories import first_noise
from efface.guiding import engine
from tests.conftest import shared

PROMPTS = ("a cat", "a dog")


def drawn(
    denoiser: Denoiser, guides, *, prompts=PROMPTS, seeds=(0, 1), steps=4, guidance=3.0, visits=None
):
    """Samples latents with the pipeline's own scheduler; visits are put into a list."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def watched(*given, **named):
        for visit in denoise(*given, **named):
            visits.append(visit)
            yield visit

    held = engine.denoise
    engine.denoise = held if visits is None else watched
    try:
        return engine.sampled(
            denoiser,
            guides,
            list(prompts),
            latents=first_noise(denoiser, generators),
            scheduler=denoiser.ready_as_drawn(steps),
            guidance=guidance,
            generators=generators,
        )
    finally:
        engine.denoise = held


@cache
def erased(family="sd1"):
    """Gives a toy and the delta that erases a pistol from it; tests leave it as they found it."""
    pipe = shared(f"tiny_{family}")
    method = registry.build("methods", "uce")
    generator = torch.Generator().manual_seed(0)
    return pipe, method.erase(pipe, request("pistol"), generator=generator).delta
