"""Who watches a run, and where it keeps its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from efface.contracts import Monitor, silent
from efface.errors import BadRequest
from efface.progress import Report, unheard
from efface.training.checkpoints import Checkpointing

__all__ = ["Session"]


@dataclass(frozen=True)
class Session:
    """A `Monitor` that hears of what precedes the steps, too, and says where checkpoints go."""

    monitor: Monitor = silent
    report: Report = unheard
    checkpointing: Checkpointing | None = None
    """Where training keeps its state; None: nowhere."""

    def __call__(self, step: int, total: int, figures: Mapping[str, float]) -> None:
        """Hands a step on to the monitor."""
        self.monitor(step, total, figures)

    @classmethod
    def of(cls, monitor: Monitor) -> Session:
        """Gives the session that a monitor is, or one that it alone watches.

        Raises:
            BadRequest: a monitor cannot be called.
        """
        if not callable(monitor):
            raise BadRequest(
                f"monitor is {monitor!r:.40}; give a function of step, total and figures, or leave "
                "it out"
            )
        return monitor if isinstance(monitor, Session) else cls(monitor)
