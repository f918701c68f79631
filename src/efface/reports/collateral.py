"""What else an edit changed, concept by concept: those that lost most come first."""

from __future__ import annotations

from dataclasses import dataclass

from efface.evaluation.record import Evaluation
from efface.evaluation.samples import STAYING
from efface.metrics.estimates import is_known
from efface.reports import wording

__all__ = ["Beside", "Collateral", "collateral"]

MOST = 12
"""Concepts that are shown at once; the rest is folded away."""


@dataclass(frozen=True)
class Beside:
    """One thing that must stay."""

    concept: str
    role: str
    before: str
    after: str
    lost: float
    """The share that went, from 0 to 1; below 0 where more is seen than before."""


@dataclass(frozen=True)
class Collateral:
    """Everything that must stay and was measured one by one."""

    sentence: str
    first: tuple[Beside, ...]
    rest: tuple[Beside, ...]


def collateral(evaluation: Evaluation) -> Collateral | None:
    """Compares single concepts that must stay; None where none was measured before and after."""
    rows = []
    for one in evaluation.measurements:
        wanted = one.metric == evaluation.main_metric and one.role in STAYING
        if not wanted or one.concept is None or one.before is None or one.after is None:
            continue
        if not (is_known(one.before) and is_known(one.after)):
            continue
        label = wording.ROLES[one.role]
        lost = one.before.value - one.after.value
        before, after = (
            f"{wording.value(each, one.unit)} ({wording.hits(each)})"
            for each in (one.before, one.after)
        )
        rows.append(Beside(one.concept, label, before, after, lost))
    if not rows:
        return None
    rows.sort(key=lambda one: (-one.lost, one.concept))
    fewer = sum(one.lost > 0 for one in rows)
    return Collateral(
        f"{fewer} of {len(rows)} things that must stay are seen less often than before.",
        tuple(rows[:MOST]),
        tuple(rows[MOST:]),
    )
