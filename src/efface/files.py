"""Writing files so that a reader sees the old content or the new one; reading JSON of others."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from efface.errors import BadRequest

__all__ = ["check_regular", "parse_json", "read_json", "write_atomically"]

LARGEST_JSON = 1 << 28
"""Bytes of a JSON file that are read: vocabularies of tokenizers have up to 40 MB."""


def parse_json(text: str | bytes) -> Any:
    """Reads JSON from anywhere.

    Raises:
        ValueError: it is not JSON, or nested more deeply than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(file: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: it is not JSON, not a regular file, too large or nested too deeply.
        OSError: it is not there or cannot be read.
    """
    check_regular(file)
    if (size := file.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"it has {size} bytes, and up to {LARGEST_JSON} are read")
    return parse_json(file.read_text(encoding="utf-8"))


def check_regular(file: Path) -> None:
    """Refuses what would wait for ever when it is opened: pipes, sockets and devices.

    Raises:
        ValueError: it is none of a file, a folder, or nothing.
    """
    if file.exists() and not file.is_file() and not file.is_dir():
        raise ValueError("it is a pipe, a socket or a device and not a file")


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
