"""How well the edited model denoises pictures of the concept: the loss that most attacks lower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from efface.diffusion.denoising import Denoiser
from efface.hosts.conditions import Conditions
from efface.randomness import noise_like

__all__ = ["denoising_errors", "noised_pictures", "rows_of"]


def noised_pictures(
    denoiser: Denoiser,
    pictures: Float[Tensor, "m c h w"],
    count: int,
    generator: torch.Generator,
    *,
    earliest: float = 0.0,
    latest: float = 1.0,
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, " n"], Float[Tensor, "n c h w"]]:
    """Draws pictures, times and noise with equal chance.

    Args:
        denoiser: whose noise process it is.
        pictures: clean latents.
        count: of samples.
        generator: of all draws.
        earliest: share of the training times, from clean to noise, from where on times are drawn.
        latest: share up to where.

    Returns:
        Noised latents, their times, and what a perfect network predicts there.
    """
    last = len(denoiser.process.noise)
    low, high = int(earliest * last), max(int(latest * last), int(earliest * last) + 1)
    clean = pictures[torch.randint(len(pictures), (count,), generator=generator)]
    times = torch.randint(low, high, (count,), generator=generator).to(torch.float64)
    noise = noise_like(clean, generator)
    latents = denoiser.process.noised(clean, noise, times)
    return latents, times, denoiser.process.truth(clean, noise, times)


def denoising_errors(
    denoiser: Denoiser,
    latents: Float[Tensor, "n c h w"],
    times: Float[Tensor, " n"],
    conditions: Conditions,
    truth: Float[Tensor, "n c h w"],
) -> Float[Tensor, " n"]:
    """Gives the mean squared error of each sample's prediction, in float32."""
    prediction = denoiser.predict(latents, times, conditions)
    return (prediction.float() - truth.float()).square().flatten(1).mean(dim=1)


def rows_of(
    drawn: Float[Tensor, "n ..."], opened: Sequence[int], trials: int
) -> Float[Tensor, "m ..."]:
    """Takes the rows of open trials, in order, from what was drawn for all of them.

    Draws are made for every trial, so that one that ends changes nothing for the others.

    Args:
        drawn: as many rows for each trial, trial by trial.
        opened: trials that go on.
        trials: how many there are.
    """
    of_trials = drawn.reshape(trials, -1, *drawn.shape[1:])
    return of_trials[list(opened)].flatten(0, 1)
