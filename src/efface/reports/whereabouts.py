"""What prompts of an erased concept show now, as rows for every report."""

from __future__ import annotations

from dataclasses import dataclass

from efface.evaluation.record import Evaluation, Sighting

__all__ = ["Whereabouts", "whereabouts"]

MOST = 5
"""Things that are listed by name; the rest are added up."""


@dataclass(frozen=True)
class Whereabouts:
    """What the pictures of one concept's prompts show."""

    concept: str
    count: int
    """Pictures."""
    rows: tuple[tuple[str, int, int], ...]
    """Name, and in how many pictures it was and is the thing that is seen first."""


def whereabouts(evaluation: Evaluation) -> list[Whereabouts]:
    """Lists for every concept what is seen most often now, what was, and the rest as one row."""
    by_concept: dict[str, list[Sighting]] = {}
    for one in evaluation.sightings:
        by_concept.setdefault(one.concept, []).append(one)
    return [
        Whereabouts(concept, seen[0].count, tuple(_rows(seen)))
        for concept, seen in by_concept.items()
    ]


def _rows(seen: list[Sighting]) -> list[tuple[str, int, int]]:
    by_change = sorted(seen, key=lambda one: (-max(one.before, one.after), -one.after, one.name))
    shown = sorted(by_change[:MOST], key=lambda one: (-one.after, -one.before, one.name))
    rest = by_change[MOST:]
    rows = [(one.name or "nothing it knows", one.before, one.after) for one in shown]
    if rest:
        before, after = sum(one.before for one in rest), sum(one.after for one in rest)
        rows.append((f"{len(rest)} other things", before, after))
    return rows
