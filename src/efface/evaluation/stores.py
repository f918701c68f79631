"""Results by name in a folder, or in any place that fsspec reaches, each written whole."""

from __future__ import annotations

import json
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any

from efface.errors import BadRequest
from efface.files import parse_json, write_atomically

__all__ = ["ResultStore", "store_at"]

_OTHERS = {"run.json": "a run", "model_index.json": "a model", "ledger.json": "a ledger"}
"""What tells a folder that holds something else, whose files results would lie among."""
_UNFINISHED = ".unfinished"
"""Folder of files that are being written."""


class ResultStore:
    """A folder of small files that several workers write and read.

    A name is there with its whole content or not at all, so that an interrupted run goes on with
    what is there.

    Args:
        place: a folder, or an address such as ``s3://bucket/folder``, whose protocol fsspec knows.

    Raises:
        BadRequest: the place cannot be written to, or its protocol is not installed; or it is the
            folder of a run, a model or a ledger.
    """

    def __init__(self, place: str | Path) -> None:
        import fsspec

        self.place = str(place)
        try:
            self._files, root = fsspec.core.url_to_fs(self.place)
        except (ImportError, ValueError) as error:
            raise BadRequest(f"results cannot be kept in {self.place}: {error}") from error
        self._root = str(root).rstrip("/")
        self._local = "file" in self._files.protocol
        self._check()

    @property
    def address(self) -> str:
        """Where other workers find it: of a folder its whole path, whatever folder they are in."""
        return self._root if self._local else self.place

    @property
    def folder(self) -> Path | None:
        """The folder, where it is one."""
        return Path(self._root) if self._local else None

    @property
    def of_one_process(self) -> bool:
        """Whether other processes cannot see what is in it."""
        return "memory" in self._files.protocol

    def has(self, name: str) -> bool:
        """Says whether there is something of a name."""
        return bool(self._files.exists(self._path(name)))

    def names(self, folder: str) -> tuple[str, ...]:
        """Lists the names in a folder, without it, sorted, as they are now."""
        where = self._path(folder)
        self._files.invalidate_cache()
        if not self._files.exists(where):
            return ()
        found = self._files.ls(where, detail=False)
        return tuple(sorted(str(each).rpartition("/")[2] for each in found))

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, whole."""
        path = self._path(name)
        if self._local:
            write_atomically(Path(path), content, aside=Path(self._root) / _UNFINISHED)
            return
        # Object stores show a file when it is complete; others show it under its name at the end.
        partial = f"{path}.{uuid.uuid4().hex}"
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(partial, content)
        self._files.mv(partial, path)

    def read(self, name: str) -> bytes:
        """Reads a file.

        Raises:
            BadRequest: it is not there.
        """
        try:
            return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            raise BadRequest(f"{self.place} holds no {name}; run the same command again") from None

    def remove(self, name: str) -> None:
        """Takes a file away; one that is not there is none."""
        if self.has(name):
            self._files.rm_file(self._path(name))

    def write_json(self, name: str, value: Any) -> None:
        """Writes plain values."""
        self.write(name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Reads what `write_json` wrote.

        Raises:
            BadRequest: it is not there, or is not JSON.
        """
        advice = "remove it, and the same command makes it again"
        return parse_json(self.read(name), f"{self.place}/{name}", advice=advice)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _check(self) -> None:
        """Refuses a place that cannot be written to or is something else's, before any work."""
        for name, what in _OTHERS.items():
            if self._local and self.has(name):
                raise BadRequest(f"{self.place} is the folder of {what}; give another --out")
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"")
            self._files.rm_file(self._path(probe))
        except (OSError, BadRequest, ValueError, NotImplementedError) as error:
            raise BadRequest(
                f"results cannot be written to {self.place} ({error}); give another --out"
            ) from error


@lru_cache(maxsize=4)
def store_at(place: str) -> ResultStore:
    """Opens a store once in a process, however many jobs write to it."""
    return ResultStore(place)
