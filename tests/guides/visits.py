"""Courses of guides on a toy, and visits with predictions that a test makes up."""

import math
from dataclasses import replace

import torch

from efface.diffusion.denoising import Denoiser
from efface.diffusion.noise import guided
from efface.diffusion.sampling import Visit
from efface.guiding.course import GuidedRun
from tests.conftest import shared

W = 2.0


def noise(count, *, shape=(2, 4, 8, 8)):
    """Gives predictions in float64."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def run_of(*, steps=10, scale=W, prompts=("a cat", "a dog"), host="tiny_sd1"):
    denoiser = Denoiser(shared(host))
    return GuidedRun(denoiser, tuple(prompts), steps, scale, denoiser.conditions(prompts))


def courses(*guides, concepts=None, **run):
    """Begins guides in a run of their own."""
    made = [g if concepts is None else replace(g, concepts=concepts) for g in guides]
    return [guide.begin(run_of(**run)) for guide in made]


def visit_at(index, unconditional, conditional, *, scale=W, total=10):
    count = len(conditional)
    return Visit(
        index=index,
        total=total,
        time=torch.tensor(500.0),
        samples=torch.arange(count),
        latents=torch.zeros_like(conditional),
        conditions=run_of().conditions,
        unconditional=unconditional,
        conditional=conditional,
        prediction=guided(unconditional, conditional, scale),
    )


def read_of(share, steps):
    """Gives a share of a run in steps."""
    return math.ceil(share * steps - 1e-9)
