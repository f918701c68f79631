"""Who is told how work goes on: a terminal, a machine, or the studio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

__all__ = ["Progress", "Telling"]


class Progress(Protocol):
    """A `Monitor` that also hears of what precedes the steps."""

    def __call__(self, step: int, total: int, figures: Mapping[str, float], /) -> None:
        """Hears that a step is done, with its figures."""

    def before(self, what: str, done: int, total: int) -> None:
        """Hears how far something is that comes before the steps."""


class Telling(Protocol):
    """What work on runs may say; the command line prints it, the studio shows it."""

    after_interrupt: str | Callable[[], str]
    """What to do after an interrupt."""

    def say(self, *lines: Any) -> None:
        """Tells people."""

    def result(self, fields: Mapping[str, Any]) -> None:
        """Tells machines."""

    def progress(self, title: str) -> AbstractContextManager[Progress]:
        """Shows how far something is; what it raises ends the work."""
