"""Latents on the way from noise to a picture: a pool made once, or stops of single runs.

Sampling with classifier-free guidance computes, at every latent it visits, what the network
predicts with and without the prompt. A pool keeps all three, so that training on latents of the
unedited model needs no teacher and no sampling of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.diffusion.denoising import SAMPLES_A_PASS, Denoiser
from efface.diffusion.sampling import denoise
from efface.hosts.conditions import Conditions
from efface.progress import Report, unheard

__all__ = ["Pool", "drawn_latents", "first_noise", "fresh_pool", "sampled_pool", "stopped"]


@dataclass(frozen=True, eq=False)
class Pool:
    """Visited latents with what the unedited model predicted there; one entry a visit."""

    latents: Float[Tensor, "n c h w"]
    times: Float[Tensor, " n"]
    step_index: Int[Tensor, " n"]
    """Steps that were done before; 0 is pure noise."""
    prompt_index: Int[Tensor, " n"]
    """Which of the prompts the trajectory followed."""
    trajectory_index: Int[Tensor, " n"]
    """Which trajectory the entry is of; entries of one trajectory share its first noise."""
    unconditional: Float[Tensor, "n c h w"]
    """Predictions for the empty prompt."""
    conditional: Float[Tensor, "n c h w"]
    """Predictions for the prompt."""
    clean: Float[Tensor, "n c h w"]
    """Where each trajectory ended."""

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, chosen: Tensor) -> Pool:
        """Selects entries by number or mask."""
        return Pool(**{name: values[chosen] for name, values in vars(self).items()})

    def drawn(self, count: int, generator: torch.Generator) -> Pool:
        """Draws entries with equal chance, with repetition."""
        return self[torch.randint(len(self), (count,), generator=generator)]

    def between(self, first: int, last: int) -> Pool:
        """Takes the entries where at least ``first`` and fewer than ``last`` steps were done."""
        return self[(self.step_index >= first) & (self.step_index < last)]

    @staticmethod
    def joined(parts: Sequence[Pool]) -> Pool:
        """Puts pools after one another."""
        return Pool(**{name: torch.cat([vars(each)[name] for each in parts]) for name in _FIELDS})


_FIELDS = tuple(Pool.__dataclass_fields__)


def drawn_latents(
    denoiser: Denoiser, count: int, generator: torch.Generator
) -> Float[Tensor, "count c h w"]:
    """Draws where trajectories start, in float32 on the CPU, then moved."""
    drawn = torch.randn((count, *denoiser.latent_shape), generator=generator)
    return drawn.to(denoiser.device, denoiser.dtype)


def first_noise(
    denoiser: Denoiser, generators: Sequence[torch.Generator]
) -> Float[Tensor, "n c h w"]:
    """Draws where trajectories start as the pipelines do: one generator a picture."""
    shape = (1, *denoiser.latent_shape)
    drawn = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    return drawn.to(denoiser.device, denoiser.dtype)


def sampled_pool(
    denoiser: Denoiser,
    conditions: Conditions,
    followed: Int[Tensor, " runs"],
    *,
    steps: int,
    guidance: float,
    generator: torch.Generator,
    last: int | None = None,
    report: Report = unheard,
) -> Pool:
    """Samples trajectories with the model as it is now and keeps every visit.

    Costs ``2 * runs * steps`` network evaluations and gives ``runs * steps`` entries.

    Args:
        denoiser: the network.
        conditions: one prompt each.
        followed: which of them each trajectory follows.
        steps: denoising steps of each.
        guidance: scale of classifier-free guidance.
        generator: draws the first noise.
        last: stop after so many steps; ``clean`` is then where the trajectories were left.
        report: hears how far it is.
    """
    start = drawn_latents(denoiser, len(followed), generator)
    parts: list[Pool] = []
    visited, visits = 0, (last or steps) * len(followed)
    for batch in torch.arange(len(followed)).split(SAMPLES_A_PASS // 2):
        latents = start[batch]
        for visit in denoise(
            denoiser,
            latents,
            conditions[followed[batch]],
            scheduler=denoiser.ready(steps),
            guidance=guidance,
            stops=torch.full((len(batch),), last or steps),
        ):
            unconditional, conditional = visit.predictions()
            parts.append(
                Pool(
                    latents=visit.latents,
                    times=torch.full((len(batch),), float(visit.time), dtype=torch.float64),
                    step_index=torch.full((len(batch),), visit.index),
                    prompt_index=followed[batch],
                    trajectory_index=batch,
                    unconditional=unconditional,
                    conditional=conditional,
                    clean=latents,  # which the loop moves on to where the trajectories end
                )
            )
            visited += len(batch)
            report("sampling trajectories", visited, visits)
    return Pool.joined(parts)


def fresh_pool(
    denoiser: Denoiser,
    conditions: Conditions,
    count: int,
    *,
    steps: int,
    guidance: float,
    generator: torch.Generator,
    teacher: Callable[[], AbstractContextManager[None]],
) -> Pool:
    """Samples latents with the model in training, and asks the frozen one about them.

    Each stops at a place of its own, drawn with equal chance.

    Args:
        denoiser: the network, as it is now.
        conditions: one prompt each, drawn with equal chance.
        count: of latents.
        steps: of a whole trajectory.
        guidance: scale of classifier-free guidance.
        generator: of all draws.
        teacher: puts the frozen network in its place for a ``with`` block.
    """
    prompt_index = torch.randint(len(conditions), (count,), generator=generator)
    step_index = torch.randint(steps, (count,), generator=generator)
    start = drawn_latents(denoiser, count, generator)
    followed = conditions[prompt_index]
    latents = stopped(denoiser, followed, start, step_index, steps=steps, guidance=guidance)
    times = denoiser.timesteps(steps)[step_index]
    with teacher():
        answers = denoiser.predict(
            torch.cat([latents, latents]),
            torch.cat([times, times]),
            Conditions.joined([denoiser.conditions([""]).repeated(count), followed]),
        )
    without, with_prompt = answers.split(count)
    return Pool(
        latents=latents,
        times=times,
        step_index=step_index,
        prompt_index=prompt_index,
        trajectory_index=torch.arange(count),
        unconditional=without,
        conditional=with_prompt,
        clean=latents,
    )


def stopped(
    denoiser: Denoiser,
    conditions: Conditions,
    start: Float[Tensor, "n c h w"],
    places: Int[Tensor, " n"],
    *,
    steps: int,
    guidance: float,
) -> Float[Tensor, "n c h w"]:
    """Denoises each sample for its own number of steps, with the model as it is now.

    For methods that ask for latents of the model in training. Each goes through the network two
    times a step, until it stops.

    Args:
        denoiser: the network.
        conditions: one prompt a sample.
        start: noise.
        places: steps to do for each sample; 0 leaves it as it is.
        steps: of the whole trajectory.
        guidance: scale of classifier-free guidance.
    """
    latents = start.clone()
    scheduler = denoiser.ready(steps)
    for _ in denoise(
        denoiser, latents, conditions, scheduler=scheduler, guidance=guidance, stops=places
    ):
        pass
    return latents
