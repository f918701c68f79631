"""Terms of a loss on predictions, with all of one step's conditions in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.diffusion.denoising import Denoiser
from efface.hosts.conditions import Conditions

__all__ = ["Target", "predicted", "squared_errors"]


@dataclass(frozen=True, eq=False)
class Target:
    """Inputs of one forward pass and the prediction it should give."""

    name: str
    """Of the term in the loss; errors of one name are added up."""
    weight: float
    latents: Float[Tensor, "n c h w"]
    times: Float[Tensor, " n"]
    conditions: Conditions
    prediction: Float[Tensor, "n c h w"]
    owners: Int[Tensor, " n"] | None = None
    """Which concept of the request each sample is about; None: any."""

    def error(self, prediction: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
        """Gives the weighted mean squared error of a prediction, in float32 or wider."""
        wide = torch.promote_types(prediction.dtype, torch.float32)
        return self.weight * (prediction.to(wide) - self.prediction.to(wide)).square().mean()


def predicted(denoiser: Denoiser, targets: Sequence[Target]) -> list[Tensor]:
    """Predicts for all inputs in one pass; gives one batch of predictions for each target."""
    predictions = denoiser.predict(
        torch.cat([target.latents for target in targets]),
        torch.cat([target.times for target in targets]),
        Conditions.joined([target.conditions for target in targets]),
    )
    return list(predictions.split([len(target.latents) for target in targets]))


def squared_errors(denoiser: Denoiser, targets: Sequence[Target]) -> dict[str, Tensor]:
    """Gives the weighted mean squared errors of predictions, by name."""
    filled = [target for target in targets if len(target.latents)]
    terms: dict[str, Tensor] = {}
    for target, prediction in zip(filled, predicted(denoiser, filled), strict=True):
        error = target.error(prediction)
        terms[target.name] = terms[target.name] + error if target.name in terms else error
    return terms
