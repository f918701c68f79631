"""Which measurement of a run is kept where another one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.contracts import Suite
    from efface.evaluation.record import Evaluation
    from efface.workbench.measuring import Plan

__all__ = ["EVALUATION", "refuse_fewer", "refuse_to_shrink"]

EVALUATION = "evaluation.json"


def refuse_to_shrink(folder: Path, suite: Suite, delta: str, plan: Plan) -> None:
    """Keeps a measurement that says more than the one that is asked for, before any work.

    Raises:
        BadRequest: there is one of more pictures, or of what was erased.
    """
    there = _worth_keeping(folder, delta, plan)
    if there is None:
        return
    if lost := sorted(_decisive(there) - {*suite.image_metrics}):
        raise BadRequest(
            f"{folder} holds a measurement of {', '.join(lost)}, which this one leaves out; add "
            f"--metrics {lost[0]}, or give --overwrite to replace its report and card"
        )
    if len(suite.samples) < len(there.samples) or not suite.judge:
        raise _smaller(folder, there, len(suite.samples), f"{suite.name}@{suite.version}")


def refuse_fewer(folder: Path, delta: str, plan: Plan, *, suite: str, count: int) -> None:
    """Keeps a recogniser's measurement on more pictures than a new one would have, before any work.

    Raises:
        BadRequest: saying how many pictures each has.
    """
    there = _worth_keeping(folder, delta, plan)
    if there is not None and count < len(there.samples):
        raise _smaller(folder, there, count, suite)


def _smaller(folder: Path, there: Evaluation, count: int, suite: str) -> BadRequest:
    return BadRequest(
        f"{folder} holds a measurement of {len(there.samples)} pictures ({there.suite}), and this "
        f"one has {count} ({suite}); give --overwrite to replace its report and card by the "
        "smaller one"
    )


def _worth_keeping(folder: Path, delta: str, plan: Plan) -> Evaluation | None:
    """Gives the measurement of a delta that is there, unless it may be replaced or says nothing."""
    from efface.evaluation.record import Evaluation

    if plan.overwrite or not (folder / EVALUATION).is_file():
        return None
    try:
        there = Evaluation.load(folder)
    except BadRequest:
        return None
    same = there.after is not None and there.after.delta == delta
    return there if same and there.verdict not in ("invalid", "not measured") else None


def _decisive(there: Evaluation) -> set[str]:
    """Names the metrics of a measurement that say whether something was erased."""
    return {one.metric for one in there.measurements} & {"presence"}
