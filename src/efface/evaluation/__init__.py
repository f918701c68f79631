"""From a model, a delta and a suite to pictures, scores, controls and a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efface.evaluation.record import Evaluation
    from efface.evaluation.runner import evaluate

__all__ = ["Evaluation", "evaluate"]


def __getattr__(name: str) -> object:
    """Loads the two public names when they are first used, since they load torch."""
    if name == "evaluate":
        from efface.evaluation.runner import evaluate

        return evaluate
    if name == "Evaluation":
        from efface.evaluation.record import Evaluation

        return Evaluation
    raise AttributeError(f"efface.evaluation has no {name}")
