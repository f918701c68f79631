"""Writing so that a reader sees the old content or the new, never a part; reading JSON."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from efface.errors import BadRequest, EffaceError

__all__ = ["parse_json", "read_json", "read_json_object", "write_atomically"]

MOST_NESTED = 100
"""Levels of JSON that are read: no file of a run or a model has more than some twenty."""


def read_json(
    path: Path,
    *,
    failure: type[EffaceError] = BadRequest,
    advice: str = "restore it from a copy, or make it again",
) -> Any:
    """Reads a JSON file of anybody's making.

    Args:
        path: the file.
        failure: the type of error that tells what is wrong with its content.
        advice: what to do then, the end of the error's text.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        failure: it is not a file, cannot be read, is not UTF-8 or not JSON, or is nested too deep.
    """
    try:
        if path.exists() and not path.is_file():
            raise failure(f"{path} is not a regular file; {advice}")
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise failure(f"{path} cannot be read ({error.strerror or error}); {advice}") from error
    return parse_json(content, str(path), failure=failure, advice=advice)


def read_json_object(
    path: Path,
    *,
    failure: type[EffaceError] = BadRequest,
    advice: str = "restore it from a copy, or make it again",
) -> dict[str, Any]:
    """Reads a JSON file that must hold an object; see `read_json`.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        failure: see `read_json`, or it holds something else.
    """
    content = read_json(path, failure=failure, advice=advice)
    if not isinstance(content, dict):
        raise failure(f"{path} does not hold a JSON object; {advice}")
    return content


def parse_json(
    content: bytes | str,
    name: str,
    *,
    failure: type[EffaceError] = BadRequest,
    advice: str = "restore it from a copy, or make it again",
) -> Any:
    """Reads JSON text; ``name`` says in errors what it is.

    Raises:
        failure: it is not UTF-8, not JSON, or nested too deep.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(text)
    except RecursionError:
        value = None
        nested = True
    except ValueError as error:
        raise failure(f"{name} is damaged: not readable as JSON ({error}); {advice}") from error
    else:
        nested = _nested_deeper(value, MOST_NESTED)
    if nested:
        raise failure(
            f"{name} is damaged: not readable as JSON (nested deeper than {MOST_NESTED} levels); "
            f"{advice}"
        )
    return value


def _nested_deeper(value: Any, levels: int) -> bool:
    level: list[Any] = [value]
    for _ in range(levels + 1):
        level = [child for each in level for child in _children(each)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


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
