"""From a picture back to the noise that it could come from, and drawn anew from there."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.diffusion.denoising import Denoiser
from efface.diffusion.trajectories import stopped
from efface.errors import BadModel
from efface.hosts.conditions import Conditions

__all__ = ["inverted", "purified", "redrawn"]


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
    latents = clean
    with denoiser.still():
        for time in scheduler.timesteps:
            times = time.to(torch.float64).clamp(min=0).expand(len(latents))
            predicted = denoiser.predict(latents, times, conditions)
            latents = scheduler.step(predicted, time, latents).prev_sample
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


def purified(
    model: Any,
    pictures: Float[Tensor, "n 3 h w"],
    prompt: str,
    *,
    steps: int = 50,
    guidance: float = 3.0,
) -> Float[Tensor, "n 3 h w"]:
    """Draws real pictures anew with the model as it is: with a delta applied, without the concept.

    The pictures are inverted with the empty prompt, which erasures that hold its prediction leave
    alone (All but One; the procedure is reconstructed), and drawn again with a prompt that names
    what is in them. What that prompt no longer gives goes; the rest stays as far as inversion is
    exact.

    Args:
        model: a pipeline of Stable Diffusion 1.x, 2.x or XL, at its own picture size.
        pictures: pixels from 0 to 1.
        prompt: what is in them, the concept included.
        steps: of inversion and of drawing.
        guidance: scale of classifier-free guidance while drawing; 1 stays nearest to the picture.
    """
    denoiser = Denoiser(model)
    factor = float(model.vae.config.scaling_factor)
    with torch.no_grad():
        pixels = (2 * pictures - 1).to(denoiser.device, denoiser.dtype)
        clean = model.vae.encode(pixels).latent_dist.mean * factor
        empty = denoiser.conditions([""]).repeated(len(clean))
        noise = inverted(denoiser, clean, empty, steps=steps)
        asked = denoiser.conditions([prompt]).repeated(len(clean))
        again = redrawn(denoiser, noise, asked, steps=steps, guidance=guidance)
        decoded: Tensor = model.vae.decode(again / factor).sample
    return ((decoded + 1) / 2).clamp(0, 1)
