"""Pictures that an attack samples itself: from noise, or from a noised picture on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import Steer, denoise
from efface.hosts.conditions import Conditions
from efface.revival.target import Target

__all__ = ["continued", "cost_of_steps", "guidance_of", "noised_for", "steps_done"]


def guidance_of(target: Target) -> float | None:
    """Gives the target's scale of guidance; None up to 1, where pipelines do not guide."""
    return None if 0 <= target.guidance <= 1 else target.guidance


def steps_done(steps: int, strength: float) -> int:
    """Gives how many of a run's steps are left out so that a share of it is drawn: its strength."""
    return steps - round(strength * steps)


def cost_of_steps(target: Target, done: int) -> int:
    """Counts the network evaluations of one picture that is drawn from a step on."""
    return (target.steps - done) * (1 if guidance_of(target) is None else 2)


def noised_for(
    denoiser: Denoiser,
    clean: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    *,
    steps: int,
    done: int,
) -> Float[Tensor, "n c h w"]:
    """Noises pictures as they would be after so many steps; after all, they stay as they are."""
    if done >= steps:
        return clean.clone()
    times = denoiser.timesteps(steps)[done].expand(len(clean))
    return denoiser.process.noised(clean, noise, times)


def continued(
    target: Target,
    latents: Float[Tensor, "n c h w"],
    conditions: Conditions,
    *,
    done: int = 0,
    guided: bool = True,
    steer: Steer | None = None,
) -> Float[Tensor, "n c h w"]:
    """Draws clean latents with the edited model, as the target's pictures are drawn.

    Args:
        target: the model under attack, its steps and guidance.
        latents: where samples stand.
        conditions: one prompt per sample.
        done: steps that are left out, the first ones.
        guided: whether with the target's guidance; otherwise conditions alone are asked.
        steer: changes latents or predictions on the way.
    """
    denoiser = target.denoiser
    scheduler, found = denoiser.ready(target.steps), latents.clone()
    if done >= target.steps:
        return found
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(done)  # samplers of flows count steps themselves
    scheduler.timesteps = scheduler.timesteps[done:]
    with torch.no_grad():
        for _ in denoise(
            denoiser,
            found,
            conditions,
            scheduler=scheduler,
            guidance=guidance_of(target) if guided else None,
            steer=steer,
        ):
            pass
    return found
