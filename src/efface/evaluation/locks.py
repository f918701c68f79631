"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from efface.errors import BadRequest

__all__ = ["locked"]

_LOCK, _HOLDER = ".efface.lock", ".efface.holder"


@contextlib.contextmanager
def locked(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Keeps other runs out of a folder until the block ends.

    The operating system holds the lock, so it is free again when its process ends in any way;
    a file left behind by a killed run is no obstacle.

    Args:
        folder: made if it is not there.
        patience: seconds to wait for another run to end.

    Raises:
        BadRequest: another run works there; the text names its process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise BadRequest(
            f"{folder} is in use by process {_holder(folder)}; "
            "wait until that run has ended, or choose another folder"
        ) from None
    try:
        (folder / _HOLDER).write_text(str(os.getpid()), encoding="ascii")
        yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / _HOLDER).read_text(encoding="ascii").strip() or "unknown"
    return "unknown"
