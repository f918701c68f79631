"""Presence of the sample's concept, by the judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from efface.contracts import Better, Instrument, Judge, Sample
from efface.errors import MeasurementFailed

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import Concept

__all__ = ["Presence", "ask"]


class Presence:
    """Probability that the sample's concept is in its picture; a hit at the judge's threshold.

    Of a picture of several things, that of the least probable one.
    """

    name: ClassVar[str] = "presence"
    unit: ClassVar[str] = "rate"
    better: ClassVar[Better] = "higher"
    uses: ClassVar[Instrument] = "judge"
    reverses: ClassVar[bool] = True

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.threshold: float | None = judge.card.threshold

    def applies(self, sample: Sample) -> bool:
        """Says whether the sample has a concept to look for."""
        return sample.concept is not None

    def scores(
        self, images: Float[Tensor, "n 3 h w"], samples: Sequence[Sample]
    ) -> Float[Tensor, " n"]:
        """Asks the judge once per concept; samples without a concept score NaN."""
        answers = ask(self._judge, images, [sample.concept for sample in samples])
        for turn in range(max((len(sample.others) for sample in samples), default=0)):
            more = [(*sample.others, *(None,) * (turn + 1))[turn] for sample in samples]
            asked = torch.tensor([concept is not None for concept in more])
            answers = torch.where(
                asked, torch.minimum(answers, ask(self._judge, images, more)), answers
            )
        return answers


def ask(
    judge: Judge, images: Float[Tensor, "n 3 h w"], concepts: Sequence[Concept | None]
) -> Float[Tensor, " n"]:
    """Collects the judge's probabilities for one concept per image; None gives NaN.

    Raises:
        MeasurementFailed: the judge answered with another shape or with something that is no
            probability. NaN is passed on: it means the judge gave no answer.
    """
    answers = torch.full((len(images),), torch.nan)
    for concept in {concept for concept in concepts if concept is not None}:
        places = [place for place, one in enumerate(concepts) if one == concept]
        found = torch.as_tensor(judge.presence(images[places], concept)).float().cpu()
        _check(judge, found, len(places), concept)
        answers[places] = found
    return answers


def _check(judge: Judge, found: Tensor, count: int, concept: Concept) -> None:
    about = f"judge {judge.card.name}, asked about '{concept.name}' in {count} pictures,"
    if found.shape != (count,):
        raise MeasurementFailed(f"{about} answered with shape {tuple(found.shape)}, not ({count},)")
    outside = found[~found.isnan() & ~((found >= 0) & (found <= 1))]
    if len(outside):
        raise MeasurementFailed(f"{about} answered {outside[0]:g}, which is no probability")
