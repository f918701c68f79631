"""Where an erased concept went: what a judge that names things sees in prompts of it instead."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from efface.concepts import Concept
from efface.contracts import JudgeCard, Sample
from efface.errors import MeasurementFailed
from efface.evaluation.images import Source
from efface.evaluation.record import Sighting
from efface.evaluation.samples import GOING
from efface.evaluation.scoring import Scorer

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Naming", "sightings"]


@runtime_checkable
class Naming(Protocol):
    """A judge that says of all things it knows how likely each is in a picture."""

    @property
    def card(self) -> JudgeCard:
        """Its identity and the threshold from which on something counts as seen."""

    def names(
        self, images: Float[Tensor, "n 3 h w"], like: Concept
    ) -> Mapping[str, Float[Tensor, " n"]]:
        """Gives a probability per picture, by name, of everything of a concept's kind."""


def sightings(
    judge: object, scorer: Scorer, samples: Sequence[Sample], sources: Sequence[Source]
) -> tuple[Sighting, ...]:
    """Counts what each picture of erased prompts shows most likely, before and after.

    Synonyms and paraphrases count as prompts of their concept. A picture in which nothing passes
    the judge's threshold shows nothing that it knows. Names that no picture shows are left out.

    Args:
        judge: without the verb of `Naming` there is nothing to say.
        scorer: has the pictures, and notes failures.
        samples: of the suite.
        sources: of the pictures, before and after.
    """
    if not isinstance(judge, Naming) or len(sources) < 2:
        return ()
    found: list[Sighting] = []
    for concept, group in _by_concept(samples).items():
        counts = []
        for source in sources:
            asked = partial(_counted, judge, scorer, source, group, concept)
            counted = scorer.guarded("what erased prompts show", asked)
            if counted is None:
                return ()
            counts.append(counted)
        before, after = counts
        names = sorted(before.keys() | after.keys(), key=lambda n: (-after.get(n, 0), n or "~"))
        found += [
            Sighting(concept.name, name, before.get(name, 0), after.get(name, 0), len(group))
            for name in names
        ]
    return tuple(found)


def _by_concept(samples: Sequence[Sample]) -> dict[Concept, list[Sample]]:
    """Gathers what erased prompts draw, by the concept that was to go."""
    found: dict[Concept, list[Sample]] = {}
    for sample in samples:
        if sample.role in GOING and sample.concept is not None:
            found.setdefault(sample.concept, []).append(sample)
    return found


def _counted(
    judge: Naming, scorer: Scorer, source: Source, samples: Sequence[Sample], concept: Concept
) -> dict[str, int]:
    """Counts pictures by the likeliest name in them; "" where none passes the threshold.

    Raises:
        MeasurementFailed: the judge gives a value that is not finite.
    """
    counts: dict[str, int] = {}
    for _, images in scorer.store.batches(source, samples):
        for name in _likeliest(judge, judge.names(images, concept)):
            counts[name] = counts.get(name, 0) + 1
    return counts


def _likeliest(judge: Naming, given: Mapping[str, Tensor]) -> Iterator[str]:
    columns = {name: values.tolist() for name, values in given.items()}
    for row in zip(*columns.values(), strict=True):
        if not all(map(math.isfinite, row)):
            raise MeasurementFailed(
                f"{judge.card.name} gave a value that is not finite when asked for names"
            )
        largest, name = max(zip(row, columns, strict=True), key=lambda pair: pair[0])
        yield name if largest >= judge.card.threshold else ""
