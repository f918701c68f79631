"""Reports the progress of work that precedes training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Report", "unheard"]

Report: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def unheard(what: str, done: int, total: int) -> None:
    """Reports to nobody."""
