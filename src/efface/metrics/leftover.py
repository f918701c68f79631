"""Leftovers of an erased concept: outlines and parts of it that a person still sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from efface.contracts import Better, Instrument, Judge, Sample
from efface.metrics.presence import ask

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Leftover"]


class Leftover:
    """Probability that something of the concept is left in a picture of an erased prompt.

    A judge that tells things apart misses outlines and halves that a person sees. This asks a
    second instrument, made for them, which errs on the other side: it also sees something in some
    pictures where the thing is gone. Its card gives both rates. It is asked about prompts whose
    concept should be gone, and about no others.
    """

    name: ClassVar[str] = "leftover"
    unit: ClassVar[str] = "rate"
    better: ClassVar[Better] = "higher"
    uses: ClassVar[Instrument] = "leftover"
    reverses: ClassVar[bool] = True

    def __init__(self, instrument: Judge) -> None:
        self._instrument = instrument
        self.threshold: float | None = instrument.card.threshold

    def applies(self, sample: Sample) -> bool:
        """Says whether the sample's concept should be gone from its picture."""
        gone = sample.role in ("erased", "synonym", "paraphrase")
        return gone and sample.concept is not None and self._instrument.knows(sample.concept)

    def scores(
        self, images: Float[Tensor, "n 3 h w"], samples: Sequence[Sample]
    ) -> Float[Tensor, " n"]:
        """Asks the instrument once per concept; samples without a concept score NaN."""
        return ask(self._instrument, images, [sample.concept for sample in samples])
