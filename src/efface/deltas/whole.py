"""Changes of live weights that happen whole or not at all, one thread at a time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import torch
from torch import Tensor, nn

__all__ = ["one_at_a_time", "uninterrupted", "write"]

_LOCK = threading.RLock()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keeps other threads from changing weights, and Ctrl-C from stopping the body halfway."""
    with _LOCK, uninterrupted():
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back until the body has ended, and raises it then; for short bodies."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    caught: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: caught.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught:
            before(signal.SIGINT, caught[0])


def write(targets: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Gives parameters new values; after an error they hold what they held before."""
    before: dict[str, Tensor] = {}
    with torch.no_grad():
        try:
            for key, value in values.items():
                before[key] = targets[key].detach().to("cpu", copy=True)
                targets[key].copy_(value)
        except BaseException:
            for key, value in before.items():
                targets[key].copy_(value)
            raise
