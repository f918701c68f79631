"""Terms of a loss on predictions, with all of one step's conditions in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.diffusion.denoising import Denoiser
from efface.hosts.conditions import Conditions

__all__ = ["Ask", "matched", "predicted"]


@dataclass(frozen=True, eq=False)
class Ask:
    """One question to the network in training, and the answer that is wanted."""

    name: str
    """Of the term in the loss; asks of one name are averaged."""
    weight: float
    latents: Float[Tensor, "n c h w"]
    times: Float[Tensor, " n"]
    conditions: Conditions
    target: Float[Tensor, "n c h w"]
    owners: Int[Tensor, " n"] | None = None
    """Which concept of the request each sample is about; None: any."""


def predicted(denoiser: Denoiser, asks: Sequence[Ask]) -> list[Tensor]:
    """Asks everything in one pass; gives one batch of predictions for each ask."""
    answers = denoiser.predict(
        torch.cat([ask.latents for ask in asks]),
        torch.cat([ask.times for ask in asks]),
        Conditions.joined([ask.conditions for ask in asks]),
    )
    return list(answers.split([len(ask.latents) for ask in asks]))


def matched(denoiser: Denoiser, asks: Sequence[Ask]) -> dict[str, Tensor]:
    """Gives the weighted mean squared errors of predictions, by name, in float32 or wider."""
    asked = [ask for ask in asks if len(ask.latents)]
    terms: dict[str, Tensor] = {}
    for ask, answer in zip(asked, predicted(denoiser, asked), strict=True):
        wide = torch.promote_types(answer.dtype, torch.float32)
        error = ask.weight * (answer.to(wide) - ask.target.to(wide)).square().mean()
        terms[ask.name] = terms[ask.name] + error if ask.name in terms else error
    return terms
