"""From a picture back to the noise that it could come from, and drawn anew from there."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import denoise
from efface.diffusion.trajectories import stopped
from efface.errors import BadModel
from efface.hosts.conditions import Conditions

__all__ = ["inverted", "redrawn"]


def inverted(
    denoiser: Denoiser,
    clean: Float[Tensor, "n c h w"],
    conditions: Conditions,
    *,
    steps: int,
) -> Float[Tensor, "n c h w"]:
    """Runs a deterministic sampler backwards (DDIM inversion), without guidance.

    Args:
        denoiser: the network as it is.
        clean: latents of pictures.
        conditions: one prompt a picture, such as the empty one.
        steps: how many.

    Raises:
        BadModel: the model is of a flow, whose inversion is not built.
    """
    if denoiser.process.kind == "flow_prediction":
        raise BadModel("pictures are inverted on diffusion models only; this one is of a flow")
    from diffusers import DDIMInverseScheduler

    scheduler = DDIMInverseScheduler.from_config(denoiser.scheduler().config)
    scheduler.set_timesteps(steps)
    latents = clean.clone()
    for _ in denoise(denoiser, latents, conditions, scheduler=scheduler, guidance=None):
        pass
    return latents


def redrawn(
    denoiser: Denoiser,
    noise: Float[Tensor, "n c h w"],
    conditions: Conditions,
    *,
    steps: int,
    guidance: float,
) -> Float[Tensor, "n c h w"]:
    """Draws clean latents from noise, with the network as it is."""
    places = torch.full((len(noise),), steps)
    return stopped(denoiser, conditions, noise, places, steps=steps, guidance=guidance)
