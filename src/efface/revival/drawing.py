"""Attempts to pictures: one denoising loop, many in a batch, each with its own noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.diffusion.denoising import SAMPLES_A_PASS, Denoiser
from efface.diffusion.pictures import pixels_of
from efface.diffusion.sampling import denoise
from efface.diffusion.trajectories import first_noise as noise_of
from efface.errors import BadModel, BadRequest
from efface.hosts.conditions import Conditions
from efface.revival.attempts import Attempt
from efface.revival.target import Target

__all__ = [
    "SCHEDULERS",
    "conditions_of",
    "cost_of",
    "decoded",
    "draw",
    "first_noise",
]

SCHEDULERS = ("DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
"""Schedulers that attempts may name; all are deterministic and take latents as they are."""


def draw(target: Target, attempts: Sequence[Attempt]) -> Float[Tensor, "n 3 h w"]:
    """Draws attempts with the edited model; pixels are 0 to 1, in 255 levels, on the CPU.

    Attempts of one way of sampling go through the network together; each has its own noise, so that
    the batch does not matter beyond rounding.

    Raises:
        BadModel: a picture is not finite.
    """
    pixels: list[Tensor | None] = [None] * len(attempts)
    for places in _alike(attempts):
        first = attempts[places[0]]
        with target.variant(first.without, first.added) as denoiser:
            for start in range(0, len(places), SAMPLES_A_PASS // 2):
                some = places[start : start + SAMPLES_A_PASS // 2]
                batch = [attempts[place] for place in some]
                for place, picture in zip(some, _drawn(target, denoiser, batch), strict=True):
                    pixels[place] = picture
    return torch.stack([picture for picture in pixels if picture is not None])


def cost_of(target: Target, attempt: Attempt) -> int:
    """Counts the network evaluations that drawing an attempt takes."""
    if attempt.clean is not None:
        return 0
    return (attempt.steps or target.steps) * (2 if _guidance(target, attempt) else 1)


def decoded(model: Any, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 height width"]:
    """Decodes clean latents to pixels of 0 to 1 on the CPU, in 255 levels as in PNG files."""
    with torch.no_grad():
        pixels = pixels_of(model, latents)
    if not bool(pixels.isfinite().all()):
        raise BadModel("the edited model draws pictures that are not finite; its edit broke it")
    return ((pixels * 255).round() / 255).cpu()


def conditions_of(denoiser: Denoiser, attempts: Iterable[Attempt]) -> Conditions:
    """Encodes what each attempt gives to read: its prompt, embeddings or rows."""
    return Conditions.joined([_conditions(denoiser, one) for one in attempts])


def first_noise(denoiser: Denoiser, seeds: Sequence[int]) -> Float[Tensor, "n c h w"]:
    """Draws noise as the pipelines do: one generator a picture."""
    return noise_of(denoiser, [torch.Generator().manual_seed(seed) for seed in seeds])


def _alike(attempts: Sequence[Attempt]) -> list[list[int]]:
    """Groups attempts that may share a batch."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, one in enumerate(attempts):
        changes = id(one.added) if one.added else 0
        way = (one.steps, one.guidance, one.scheduler, one.without, changes, one.clean is None)
        groups.setdefault(way, []).append(place)
    return list(groups.values())


def _drawn(target: Target, denoiser: Denoiser, batch: list[Attempt]) -> Tensor:
    first = batch[0]
    if first.clean is not None:
        clean = [one.clean for one in batch if one.clean is not None]
        return decoded(target.model, torch.stack(clean).to(denoiser.device, denoiser.dtype))
    latents = first_noise(denoiser, [one.seed for one in batch])
    for place, one in enumerate(batch):
        if one.noise is not None:
            latents[place] = one.noise.to(latents)
    scheduler = _scheduler(denoiser, first, target)
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    with torch.no_grad():
        visits = denoise(
            denoiser,
            latents,
            conditions_of(denoiser, batch),
            scheduler=scheduler,
            guidance=_guidance(target, first),
            negative=denoiser.conditions([one.negative for one in batch]),
        )
        for _ in visits:
            pass
    return decoded(target.model, latents)


def _guidance(target: Target, attempt: Attempt) -> float | None:
    """Pipelines guide above 1 only."""
    scale = target.guidance if attempt.guidance is None else attempt.guidance
    return None if 0 <= scale <= 1 else scale


def _scheduler(denoiser: Denoiser, attempt: Attempt, target: Target) -> Any:
    steps = attempt.steps or target.steps
    if not attempt.scheduler:
        return denoiser.ready(steps)
    if attempt.scheduler not in SCHEDULERS or denoiser.process.kind == "flow_prediction":
        raise BadRequest(
            f"attempts are not drawn with {attempt.scheduler} on this model; "
            f"known for diffusion models: {', '.join(SCHEDULERS)}"
        )
    import diffusers

    made = getattr(diffusers, attempt.scheduler).from_config(denoiser.scheduler().config)
    made.set_timesteps(steps)
    return made


def _conditions(denoiser: Denoiser, attempt: Attempt) -> Conditions:
    if attempt.embeddings:
        given = {name: rows[None] for name, rows in attempt.embeddings.items()}
        with torch.no_grad():
            return denoiser.host.encode([attempt.prompt], embeddings=given)
    known = denoiser.conditions([attempt.prompt])
    if attempt.rows is None:
        return known
    return Conditions(attempt.rows[None].to(known.rows), known.pooled, known.read)
