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
from efface.evaluation.scores import Measure, Row, ScoreBook
from efface.memory import MemoryRanOut, translating_out_of_memory

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
    _hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of pixels, by source and sample, read once."""

    def fill(self, measure: Measure, ask: Ask, source: Source, samples: Sequence[Sample]) -> None:
        """Scores what the book lacks; a failure is noted and stops this measure only."""
        rows = self.rows(measure, source, samples)
        listed = zip(rows, samples, strict=True)
        missing = [sample for row, sample in listed if row not in self.book.scores]
        done = 0
        for batch, images in self.store.batches(source, missing):
            asked = partial(_asked, measure.name, ask, images, batch)
            answers = self.guarded(measure.name, asked)
            if answers is None:
                return
            given = self.rows(measure, source, batch)
            self.book.add(dict(zip(given, answers, strict=True)))
            done += len(batch)
            self.monitor(done - 1, len(missing), {})
        self._count_unscored(measure.name, rows)

    def guarded(self, measure: str, work: Callable[[], T]) -> T | None:
        """Runs an instrument, which may fail in any way; None and a noted failure if it does.

        Raises:
            MemoryRanOut: there is too little for the instrument, which says nothing about pictures.
        """
        try:
            with translating_out_of_memory():
                return work()
        except MemoryRanOut as error:
            raise MemoryRanOut(
                f"{error} while measuring {measure}; free some, or run its model on a device with "
                "more; pictures and scores so far are kept, so run the same again"
            ) from error
        except MeasurementFailed as error:
            self.failures.append(str(error))
        except Exception as error:
            self.failures.append(
                f"{measure} failed: {type(error).__name__}: {error}; no picture is counted, "
                "neither as a hit nor as a miss"
            )
        return None

    def values(self, measure: Measure, source: Source, samples: Sequence[Sample]) -> list[float]:
        """Gives the scores of samples in their order; NaN for those not scored."""
        return self.book.values(self.rows(measure, source, samples))

    def rows(self, measure: Measure, source: Source, samples: Sequence[Sample]) -> list[Row]:
        """Names the rows of samples in the book, by the pictures that are there now."""
        known = self._hashes.setdefault(source.key, {})
        known.update(self.store.hashes(source, [one for one in samples if one.id not in known]))
        return [Row(source.key, one.id, known.get(one.id, ""), measure) for one in samples]

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
