"""Presence of the style that the sample asks for, by the judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from efface.contracts import Better, Instrument, Judge, Sample
from efface.metrics.presence import ask

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["StylePresence"]


class StylePresence:
    """Probability that the sample's style is in its picture; a hit at the judge's threshold."""

    name: ClassVar[str] = "style_presence"
    unit: ClassVar[str] = "rate"
    better: ClassVar[Better] = "higher"
    uses: ClassVar[Instrument] = "judge"
    reverses: ClassVar[bool] = False

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.threshold: float | None = judge.card.threshold

    def applies(self, sample: Sample) -> bool:
        """Says whether the sample asks for a style."""
        return sample.style is not None

    def scores(
        self, images: Float[Tensor, "n 3 h w"], samples: Sequence[Sample]
    ) -> Float[Tensor, " n"]:
        """Asks the judge once per style; samples without a style score NaN."""
        return ask(self._judge, images, [sample.style for sample in samples])
