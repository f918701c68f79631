"""Writing so that a reader sees the old content or the new, never a part; reading JSON."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from efface.errors import BadRequest, EffaceError

__all__ = [
    "RECORD",
    "check_place",
    "exchanged",
    "header_facts",
    "parse_json",
    "read_json",
    "read_json_object",
    "replacing",
    "seal",
    "write_atomically",
]

RECORD = "efface.json"
"""File of a folder that efface wrote, with its account of every other file in it."""
_FACT = "efface_delta"
_FINGERPRINTED = 1 << 20  # bytes at the start of a file that its account covers
_ADVICE = "restore it from a copy, or make it again"
_ASIDE = ".old"
_EXCHANGE, _HERE = 2, -100
"""Linux's RENAME_EXCHANGE and AT_FDCWD."""

MOST_NESTED = 100
"""Levels of JSON that are read: no file of a run or a model has more than some twenty."""


def read_json(path: Path, *, failure: type[EffaceError] = BadRequest, advice: str = _ADVICE) -> Any:
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
    path: Path, *, failure: type[EffaceError] = BadRequest, advice: str = _ADVICE
) -> dict[str, Any]:
    """Reads a JSON file that must hold an object.

    Raises:
        FileNotFoundError, NotADirectoryError, failure: see `read_json`; or it holds none.
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
    advice: str = _ADVICE,
) -> Any:
    """Reads JSON text; ``name`` says in errors what it is.

    Raises:
        failure: it is not UTF-8, not JSON, or nested too deep.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(text)
        nested = _nested_deeper(value, MOST_NESTED)
    except RecursionError:
        nested = True
    except ValueError as error:
        raise failure(f"{name} is damaged: not readable as JSON ({error}); {advice}") from error
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


def write_atomically(path: Path, content: bytes, *, aside: Path | None = None) -> None:
    """Replaces a file in one step: a temporary file, beside it or ``aside``, is filled and renamed.

    A full disk, an interrupt or a kill at any moment leaves the file that was there before. What
    killed ones left is removed; ``aside``, of the same disk, spares looking for that among many.

    Raises:
        BadRequest: the place cannot be written to, for instance because the disk is full.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EEXIST, "it is a device or a pipe, and those are not replaced")
        place = path if aside is None else aside / path.name
        for each in (path, place):
            each.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _temporary(place)
    except OSError as error:
        raise _unwritable(path, error) from error
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
    _remove_abandoned(place)
    _flush_folder(path.parent)


def _temporary(path: Path) -> tuple[int, Path]:
    """Makes a locked file beside another; the lock tells the living from the abandoned."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        if _lock(handle) and os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)


def _remove_abandoned(path: Path) -> None:
    for abandoned in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError), abandoned.open("rb") as file:
            if _lock(file.fileno()):
                abandoned.unlink()


def _lock(handle: int) -> bool:
    """Locks an open file for this process, until it is closed; False when another one has it."""
    try:
        import fcntl
    except ImportError:  # Windows deletes no file that is open.
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def check_place(out: Path, *, overwrite: bool = False, protected: Iterable[Path] = ()) -> None:
    """Refuses a place whose replacement would destroy anything that efface did not write.

    Ours are files whose header names the delta, and folders in which every file is as its
    ``efface.json`` says.

    Args:
        out: file or folder to write.
        overwrite: whether what efface wrote there may be replaced.
        protected: files and folders that must stay, such as the base model and the run that is
            read. The working folder is always one of them.

    Raises:
        BadRequest: the place is a link, holds something protected or somebody else's, or is taken.
    """
    if out.name in ("", ".."):
        raise BadRequest(f"{out} is no name of a new file or folder; give one")
    if out.is_symlink():
        raise BadRequest(f"{out} is a link, and links are not replaced; name the place itself")
    for each in (Path.cwd(), *protected):
        place = each.resolve()
        if out.resolve() in (place, *place.parents):
            what = "is" if out.resolve() == place else "holds"
            raise BadRequest(
                f"{out} {what} {place}, which is in use and would be lost; choose another name"
            )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise BadRequest(
            f"{out} exists already; give a name that is free, or --overwrite what efface wrote"
        )
    if why := _foreign(out):
        raise BadRequest(
            f"{out} {why}; only what efface wrote, unchanged, is replaced: choose another name, or "
            "remove it yourself"
        )


def _foreign(out: Path) -> str | None:
    """Says what in a place is somebody else's; None when all of it is ours."""
    if not out.is_dir():
        ours = out.is_file() and _FACT in header_facts(out)
        return None if ours else "was not written by efface export"
    try:
        listed = read_json_object(out / RECORD).get("files")
    except (OSError, BadRequest):
        listed = None
    if not isinstance(listed, dict):
        return f"has no {RECORD} that lists its files, so efface cannot tell that it wrote them"
    for place, folders, names in os.walk(out):
        for name in sorted((*folders, *names)):
            path = Path(place, name)
            own = path.relative_to(out).as_posix()
            if path.is_symlink() or (name in names and not path.is_file()):
                return f"holds '{own}', which is a link or no file"
            if name in names and own != RECORD and listed.get(own) != _fingerprint(path):
                return f"holds '{own}', which efface did not write or which was changed since"
    return None


def header_facts(file: Path) -> Mapping[str, Any]:
    """Gives the metadata of a safetensors file; nothing of other files."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            known = length < file.stat().st_size
            header = parse_json(opened.read(length), str(file)) if known else None
    except (OSError, struct.error, BadRequest):
        return {}
    facts = header.get("__metadata__") if isinstance(header, dict) else None
    return facts if isinstance(facts, dict) else {}


def seal(folder: Path) -> None:
    """Writes down in a folder's ``efface.json`` which files efface put there, beside what it says.

    Raises:
        BadRequest: the folder cannot be written to, or its record is damaged.
    """
    record = folder / RECORD
    told = read_json_object(record) if record.exists() else {}
    files = {
        path.relative_to(folder).as_posix(): _fingerprint(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != record
    }
    write_atomically(record, (json.dumps({**told, "files": files}, indent=2) + "\n").encode())


def _fingerprint(file: Path) -> str:
    with file.open("rb") as opened:
        start = opened.read(_FINGERPRINTED)
    return f"{file.stat().st_size}:{hashlib.sha256(start).hexdigest()}"


@contextlib.contextmanager
def replacing(
    out: Path, *, overwrite: bool = False, protected: Iterable[Path] = ()
) -> Iterator[Path]:
    """Gives a free path to write a file or a folder to; it becomes ``out`` when the body ends well.

    It lies in a folder beside ``out``; the last step is one renaming, which exchanges new and old.
    A lock keeps other writers of ``out`` apart; what killed ones left is removed.

    Args:
        out: the place; its parents are made.
        overwrite: see `check_place`.
        protected: see `check_place`.

    Raises:
        BadRequest: see `check_place`; or another process writes there, or it cannot be written to.
    """
    check_place(out, overwrite=overwrite, protected=protected)
    out = out.absolute()
    made = [folder for folder in out.parents if not folder.exists()]
    staging = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _sole_writer(out):
            _restore(staging, out)
            check_place(out, overwrite=overwrite, protected=protected)
            shutil.rmtree(staging, ignore_errors=True)
            try:
                staging.mkdir()
                yield staging / out.name
                _take_place(staging / out.name, out)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def _sole_writer(out: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(out.with_name(f".{out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadRequest(
            f"another process is writing {out}; wait until it has ended, or choose another name"
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _take_place(new: Path, out: Path) -> None:
    """Puts the new where the old is; the old is then where the new was."""
    if not out.exists() or (out.is_file() and new.is_file()):
        new.replace(out)
    elif not exchanged(new, out):
        aside = new.parent / _ASIDE
        out.replace(aside)
        try:
            new.replace(out)
        except BaseException:
            aside.replace(out)
            raise
    _flush_folder(out.parent)


def _restore(staging: Path, out: Path) -> None:
    """Takes back the old that a kill left aside, where systems cannot exchange names."""
    if not out.exists() and (staging / _ASIDE).exists():
        (staging / _ASIDE).replace(out)


def exchanged(first: Path, second: Path) -> bool:
    """Exchanges what two names stand for in one step; False where the system cannot do that.

    Raises:
        OSError: it can, and did not: no such file, or no permission.
    """
    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    call = getattr(library, "renameat2", None)
    if call is None:
        return False
    if call(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EBUSY):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _flush_folder(folder: Path) -> None:
    """Makes the rename itself durable, where the file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> BadRequest:
    full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    what = "no space is left" if full else error.strerror or str(error)
    return BadRequest(
        f"cannot write {path}: {what}; nothing half-written was kept and what was there is "
        "untouched: free some space or choose another place, and run again"
    )
