"""What erasing one concept did to others: concepts erased against concepts measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from efface.contracts import Estimate, Sample
from efface.evaluation.record import Evaluation
from efface.metrics.estimates import rate

__all__ = ["Cell", "CollateralMap", "collateral", "samples_of"]


@dataclass(frozen=True)
class Cell:
    """One erasure, and what became of one concept."""

    before: Estimate
    after: Estimate
    going: bool
    """Whether the concept was to go."""

    @property
    def lost(self) -> float:
        """How much less often it is seen."""
        return self.before.value - self.after.value


@dataclass(frozen=True)
class CollateralMap:
    """Rows are runs, columns concepts; what was not measured has no cell."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]


def collateral(evaluations: Mapping[str, Evaluation]) -> CollateralMap:
    """Reads the map from what every picture scored, by what each row is called.

    Of what was to go, its own prompts count; of the rest, all pictures of it. Columns are what
    is erased in any row first, then what is lost most.
    """
    cells: dict[tuple[str, str], Cell] = {}
    for name, one in evaluations.items():
        before, after = (_hits(one, time) for time in ("before", "after"))
        for concept in dict.fromkeys(each.subject for each in one.samples if each.subject):
            going = concept in one.erased
            both = before.get(concept, {}).keys() & after.get(concept, {}).keys()
            places = [p for p in sorted(both) if not going or one.samples[p].role == "erased"]
            if places:
                first, second = ([hits[concept][p] for p in places] for hits in (before, after))
                prompts = [one.samples[place].prompt for place in places]
                rates = rate(first, prompts), rate(second, prompts)
                cells[name, concept] = Cell(*rates, going)
    worst: dict[str, tuple[bool, float]] = {}
    for (_, concept), cell in cells.items():
        worst[concept] = max(worst.get(concept, (False, -1.0)), (cell.going, cell.lost))
    columns = tuple(sorted(worst, key=lambda concept: worst[concept], reverse=True))
    return CollateralMap(tuple(evaluations), columns, cells)


def _hits(evaluation: Evaluation, time: str) -> dict[str, dict[int, float]]:
    """Gives by concept and sample whether it is seen; what was not scored is left out."""
    values = evaluation.answers.get(f"{evaluation.main_metric} {time}", ())
    limit, found = evaluation.judge.threshold, defaultdict[str, dict[int, float]](dict)
    for place, (sample, value) in enumerate(zip(evaluation.samples, values, strict=False)):
        if sample.subject and not math.isnan(value):
            found[sample.subject][place] = float(value >= limit)
    return found


def samples_of(evaluation: Evaluation, concept: str) -> tuple[Sample, ...]:
    """Lists what was drawn of one concept."""
    return tuple(one for one in evaluation.samples if one.subject == concept)
