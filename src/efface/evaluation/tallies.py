"""Counts what a judge sees in pictures of one concept: each attribute's share, its presence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from efface.contracts import Sample
from efface.errors import MeasurementFailed
from efface.evaluation.drawing import draw
from efface.evaluation.instruments import knows
from efface.metrics.presence import ask

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import Concept
    from efface.contracts import Judge

__all__ = ["Tally", "tally"]

_BATCH = 32


@dataclass(frozen=True)
class Tally:
    """How many of some pictures showed what."""

    pictures: int
    attributes: tuple[int, ...]
    """Pictures of each attribute, in the order asked; a picture counts for one at most."""
    present: int | None
    """Pictures that show the concept; None where the judge does not know it."""

    def shares(self) -> Float[Tensor, " k"]:
        """Gives each attribute's share of all pictures."""
        return torch.tensor(self.attributes, dtype=torch.float64) / self.pictures

    def presence(self) -> float | None:
        """Gives the share of pictures that show the concept."""
        return None if self.present is None else self.present / self.pictures


def tally(
    pipe: Any,
    samples: Sequence[Sample],
    judge: Judge,
    attributes: Sequence[Concept],
    *,
    steps: int,
    guidance: float,
) -> Tally:
    """Draws the samples and counts.

    A picture goes to the attribute that the judge finds most likely, if it is at the judge's
    threshold; else to none.

    Args:
        pipe: a pipeline, with whatever is applied to it.
        samples: what is drawn; their concept is looked for if the judge knows it.
        judge: its threshold decides.
        attributes: what pictures are told apart by.
        steps: denoising steps.
        guidance: scale of classifier-free guidance.

    Raises:
        MeasurementFailed: a picture is not finite, or the judge gives no probability for one.
    """
    counts = torch.zeros(len(attributes), dtype=torch.int64)
    present = 0
    concept = samples[0].concept
    looked_for = concept if concept is not None and knows(judge, concept) else None
    for first in range(0, len(samples), _BATCH):
        batch = samples[first : first + _BATCH]
        drawn = draw(pipe, batch, steps=steps, guidance=guidance)
        images = torch.from_numpy(drawn.pixels).permute(0, 3, 1, 2) / 255
        counts += _counted(judge, images, attributes)
        if looked_for is not None:
            found = _answered(judge, images, looked_for)
            present += int((found >= judge.card.threshold).sum())
    return Tally(len(samples), tuple(counts.tolist()), None if looked_for is None else present)


def _answered(
    judge: Judge, images: Float[Tensor, "n 3 h w"], concept: Concept
) -> Float[Tensor, " n"]:
    """Asks about one concept; a picture without an answer is neither a hit nor a miss.

    Raises:
        MeasurementFailed: the judge gave no answer for a picture.
    """
    found = ask(judge, images, [concept] * len(images))
    blank = int(found.isnan().sum())
    if blank:
        raise MeasurementFailed(
            f"judge {judge.card.name} gave no answer about '{concept.name}' for {blank} of "
            f"{len(found)} pictures, so that shares cannot be counted; choose another judge"
        )
    return found


def _counted(
    judge: Judge, images: Float[Tensor, "n 3 h w"], attributes: Sequence[Concept]
) -> Float[Tensor, " k"]:
    columns = [_answered(judge, images, each) for each in attributes]
    likely, which = torch.stack(columns, dim=1).max(dim=1)
    clear = which[likely >= judge.card.threshold]
    return clear.bincount(minlength=len(attributes))
