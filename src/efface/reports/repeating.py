"""The commands that repeat a run and its measurement, as pages print them."""

from __future__ import annotations

import shlex

from efface.evaluation.record import Evaluation
from efface.reports import guides
from efface.runs.recipe import AGAIN

__all__ = ["repeating"]

_SIZES = ("smoke", "short", "implicit")
"""Sizes of suites that ``efface evaluate`` takes by name, besides its default."""


def repeating(evaluation: Evaluation, command: str) -> tuple[str, ...]:
    """Gives the lines that make the run again and measure it as it was measured.

    Where the measurement was not the default one, the erasure is told not to measure: a smaller
    measurement does not replace a larger one.

    Args:
        evaluation: names its suite and the guides of its pictures.
        command: what makes the run again; empty where that is not known.
    """
    if not command:
        return ()
    name = evaluation.suite.partition("@")[0]
    sizes = [size for size in _SIZES if name.endswith(f"-{size}")]
    steered = guides.flags(evaluation)
    words = [word for size in sizes for word in ("--size", size)] + (steered or [])
    measures = command.startswith("efface erase ")
    first = f"{command} --no-evaluate" if words and measures else command
    second = shlex.join(["efface", "evaluate", AGAIN, *words])
    return first, second if steered is not None else f"{second} # and its guides, see above"
