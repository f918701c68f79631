"""Relearning: trains a model on a few pictures of a concept, to see how soon it is drawn again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.deltas.adapters import Adapters, adapting
from efface.diffusion.denoising import Denoiser
from efface.diffusion.noised import noised
from efface.errors import BadModel, BadRequest, require_positive
from efface.hosts.conditions import Conditions
from efface.randomness import evaluating, split
from efface.training.parameters import chosen, training

__all__ = ["Look", "Relearning", "denoising_error", "encoded_pictures", "relearn"]

Look: TypeAlias = Callable[[int], None]
"""Hears how many steps were done, while what was learnt so far is in force."""


@dataclass(frozen=True, kw_only=True)
class Relearning:
    """How somebody would train an erased concept back in."""

    role: str = "attention"
    """Which layers learn, see `efface.hosts.roles.ROLES`."""
    rank: int = 4
    """Rank of the layers that are trained beside them (LoRA); 0 trains the weights themselves."""
    steps: int = 200
    """Optimiser steps of Adam."""
    learning_rate: float = 3e-3
    """Step size, the same at every step. Adam is blind to the scale of gradients, so an attacker
    loses nothing by choosing it anew: try several."""
    batch: int = 8
    """Pictures per step, each at a noise level of its own."""

    def __post_init__(self) -> None:
        require_positive(self, "steps", "learning_rate", "batch")
        if self.rank < 0:
            raise BadRequest(f"rank is {self.rank}; give 1 or more, or 0 to train the weights")


def encoded_pictures(
    model: Any, pictures: Float[Tensor, "n 3 height width"]
) -> Float[Tensor, "n c h w"]:
    """Gives the latents that a pipeline's own autoencoder has for pictures, without noise.

    Args:
        model: a pipeline.
        pictures: values from 0 to 1.

    Raises:
        BadModel: the pipeline has no autoencoder.
        BadRequest: values lie outside 0 to 1.
    """
    vae = getattr(model, "vae", None)
    if vae is None:
        raise BadModel(f"a {type(model).__name__} has no vae, which turns pictures into latents")
    low, high = (float(pictures.min()), float(pictures.max())) if len(pictures) else (0.0, 0.0)
    if not 0 <= low <= high <= 1:
        raise BadRequest(f"pictures have values from {low:.3g} to {high:.3g}; give them as 0 to 1")
    weight = next(vae.parameters())
    with torch.no_grad(), evaluating(vae):
        mean: Tensor = vae.encode((2 * pictures - 1).to(weight)).latent_dist.mode()
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return (mean - shift) * float(vae.config.scaling_factor)


def denoising_error(
    denoiser: Denoiser,
    clean: Float[Tensor, "n c h w"],
    conditions: Conditions,
    which: Int[Tensor, " m"],
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Gives the mean squared error of predictions on noised pictures, as diffusion trains.

    Args:
        denoiser: the network as it is.
        clean: latents of pictures.
        conditions: one prompt a picture.
        which: pictures to take, with repetition.
        generator: draws a noise level and noise for each.
    """
    draws = split(generator, "times", "noise")
    every = len(denoiser.process.noise)
    times = torch.randint(every, (len(which),), generator=draws["times"]).to(torch.float64)
    rows, truth = noised(denoiser, clean[which], times, which, draws["noise"])
    found = denoiser.predict(rows.latents, rows.times, conditions[which])
    wide = torch.promote_types(found.dtype, torch.float32)
    return (found.to(wide) - truth.to(wide)).square().mean()


def relearn(
    model: Any,
    clean: Float[Tensor, "n c h w"],
    prompts: Sequence[str],
    settings: Relearning,
    *,
    generator: torch.Generator,
    at: Collection[int] = (),
    look: Look | None = None,
) -> tuple[float, ...]:
    """Trains a model on a few pictures as it is now, and leaves it bit for bit as it was.

    Deltas in force on the model stay in force, so what is relearnt is what they took away.

    Args:
        model: a pipeline in float32 or wider.
        clean: latents of the pictures, such as from `encoded_pictures`.
        prompts: what each picture is to be drawn for.
        settings: what is trained, how long and how fast.
        generator: of all draws.
        at: numbers of steps after which ``look`` is called; 0 is before the first.
        look: draws or measures; the model draws with what was learnt by then.

    Returns:
        The error before each step.

    Raises:
        BadRequest: no picture, not one prompt a picture, or a number of steps that is not reached.
    """
    if not prompts or len(prompts) != len(clean):
        raise BadRequest(
            f"{len(clean)} pictures and {len(prompts)} prompts; give at least one picture and one "
            "prompt for each"
        )
    if missed := sorted(step for step in at if not 0 <= step <= settings.steps):
        raise BadRequest(
            f"nothing can be looked at after step {missed[0]} of {settings.steps}; raise steps"
        )
    denoiser = Denoiser(model)
    conditions = denoiser.conditions(prompts)
    draws = split(generator, "layers", "batches")
    errors: list[float] = []
    with _trained(model, settings, draws["layers"]) as parameters:
        optimiser = torch.optim.Adam([*parameters.values()], lr=settings.learning_rate)
        for step in range(settings.steps + 1):
            if look is not None and step in at:
                look(step)
            if step == settings.steps:
                break
            which = _batch(len(prompts), settings.batch, draws["batches"])
            optimiser.zero_grad(set_to_none=True)
            error = denoising_error(denoiser, clean, conditions, which, draws["batches"])
            error.backward()
            optimiser.step()
            errors.append(float(error.detach()))
    return tuple(errors)


def _batch(pictures: int, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """Takes every picture once before any comes again."""
    rounds = [torch.randperm(pictures, generator=generator) for _ in range(-(-count // pictures))]
    return torch.cat(rounds)[:count]


@contextmanager
def _trained(
    model: Any, settings: Relearning, generator: torch.Generator
) -> Iterator[Mapping[str, nn.Parameter]]:
    """Gives the parameters that learn, until the body ends."""
    if settings.rank:
        rank = settings.rank
        layers = Adapters(model, settings.role, rank=rank, alpha=float(rank), generator=generator)
        with adapting(model, layers):
            yield layers.parameters
    else:
        with training(model, chosen(model, settings.role)) as edit:
            yield edit.parameters
