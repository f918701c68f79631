"""A run's folder: one writer at a time, and files that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from efface.errors import BadRequest
from efface.evaluation import locks

__all__ = ["RunFolder", "locked"]

_LOCK_FILES = ".efface."
_STAGING = ".partial"


class RunFolder:
    """A folder that this process may write; get one from `locked`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Gives an empty folder; its files move into the run when the body ends well.

        Each file replaces its older version in one step. When the body raises, or the process dies,
        the run's files are what they were.
        """
        staging = self.path / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
            for source in sorted(staging.rglob("*")):
                target = self.path / source.relative_to(staging)
                if source.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    source.replace(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[RunFolder]:
    """Takes a run's folder for writing; the operating system frees it if the process dies.

    A folder that this call made is removed again if nothing was put into it.

    Raises:
        BadRequest: another process is writing there, or the path is a file.
    """
    if path.exists() and not path.is_dir():
        raise BadRequest(f"{path} is a file; --out needs a folder, or a name that is still free")
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        with locks.locked(path):
            yield RunFolder(path)
    finally:
        _remove_if_empty(path, made)


def _remove_if_empty(path: Path, made: list[Path]) -> None:
    left = list(path.iterdir())
    if not made or not all(entry.name.startswith(_LOCK_FILES) for entry in left):
        return
    for entry in left:
        entry.unlink(missing_ok=True)
    for folder in made:
        if not any(folder.iterdir()):
            folder.rmdir()
