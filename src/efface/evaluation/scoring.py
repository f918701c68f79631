"""Asking instruments about pictures, once per picture, and catching every way they can fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, TypeVar

from torch import Tensor

from efface.contracts import Monitor, Sample, silent
from efface.errors import MeasurementFailed
from efface.evaluation.images import ImageStore, Source
from efface.evaluation.scores import Row, ScoreBook

__all__ = ["Ask", "Scorer"]

T = TypeVar("T")
Ask: TypeAlias = Callable[[Tensor, Sequence[Sample]], Tensor]
"""Pictures and their samples to one number per picture."""


@dataclass
class Scorer:
    """Fills a score book from a store of pictures."""

    store: ImageStore
    book: ScoreBook
    failures: list[str] = field(default_factory=list)
    """What went wrong, in words; any entry makes the evaluation invalid."""
    monitor: Monitor = silent

    def fill(self, measure: str, ask: Ask, source: Source, samples: Sequence[Sample]) -> None:
        """Scores what the book lacks; a failure is noted and stops this measure only."""
        rows = self.rows(measure, source, samples)
        listed = zip(rows, samples, strict=True)
        missing = [sample for row, sample in listed if row not in self.book.scores]
        done = 0
        for batch, images in self.store.batches(source, missing):
            answers = self.guarded(measure, partial(_asked, measure, ask, images, batch))
            if answers is None:
                return
            given = self.rows(measure, source, batch)
            self.book.add(dict(zip(given, answers, strict=True)))
            done += len(batch)
            self.monitor(done - 1, len(missing), {})
        self._count_unscored(measure, rows)

    def guarded(self, measure: str, work: Callable[[], T]) -> T | None:
        """Runs an instrument, which may fail in any way; None and a noted failure if it does."""
        try:
            return work()
        except MeasurementFailed as error:
            self.failures.append(str(error))
        except Exception as error:
            self.failures.append(
                f"{measure} failed: {type(error).__name__}: {error}; no picture is counted, "
                "neither as a hit nor as a miss"
            )
        return None

    def values(self, measure: str, source: Source, samples: Sequence[Sample]) -> list[float]:
        """Gives the scores of samples in their order; NaN for those not scored."""
        return self.book.values(self.rows(measure, source, samples))

    def rows(self, measure: str, source: Source, samples: Sequence[Sample]) -> list[Row]:
        """Names the rows of samples in the book."""
        return [(source.key, sample.id, measure) for sample in samples]

    def _count_unscored(self, measure: str, rows: Sequence[Row]) -> None:
        blank = sum(math.isnan(value) for value in self.book.values(rows))
        if blank:
            self.failures.append(
                f"{measure} gave no finite answer for {blank} of {len(rows)} pictures"
            )


def _asked(measure: str, ask: Ask, images: Tensor, samples: Sequence[Sample]) -> list[float]:
    """Gets one number per picture.

    Raises:
        MeasurementFailed: the instrument gave another count of numbers.
    """
    answers = ask(images, samples).flatten().tolist()
    if len(answers) != len(samples):
        raise MeasurementFailed(
            f"{measure} gave {len(answers)} numbers for {len(samples)} pictures"
        )
    return [float(answer) for answer in answers]
