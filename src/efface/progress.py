"""How far what comes before the steps of a training is, for whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

__all__ = ["Watch", "told", "watching"]

Watch: TypeAlias = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and how much there is."""

_watch: ContextVar[Watch | None] = ContextVar("watching", default=None)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Lets somebody hear of preparations inside the body."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def told(what: str, done: int, total: int) -> None:
    """Tells the watcher, if there is one."""
    if (watch := _watch.get()) is not None:
        watch(what, done, total)
