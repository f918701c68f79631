"""Writing files so that a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from efface.errors import BadRequest

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file in one step: a temporary file beside it is filled, flushed and renamed.

    A full disk, an interrupt or a kill at any moment leaves the file that was there before.

    Raises:
        BadRequest: the place cannot be written to, for instance because the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Makes the rename itself durable, where the file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> BadRequest:
    return BadRequest(
        f"cannot write {path}: {error.strerror or error}; what was there is untouched, "
        "so free some space or choose another folder and run again"
    )
