"""A run's folder: one writer at a time, and files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from efface import registry
from efface.errors import BadRequest
from efface.evaluation import locks
from efface.files import exchanged, header_facts, read_json_object

__all__ = ["REPORT", "RunFolder", "check_free", "claimed", "folders_of", "locked"]

REPORT = (
    "evaluation.json",
    "report.html",
    "before_after.png",
    "thumbnail.jpg",
    "intervals.png",
    "card.md",
    "card.json",
)
"""What measuring a run writes."""
_RECORD, _DELTA = "run.json", "delta.safetensors"
_RUN = (_DELTA, _RECORD, "curves.jsonl", "smoke", "previews", *REPORT)
"""What a run consists of; everything else in its folder is somebody else's."""
_LOCK_FILES = ".efface."
_STAGING = ".partial"


class RunFolder:
    """A folder that this process may write; get one from `locked` or `claimed`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def staged(
        self, *, owned: Collection[str] = _RUN, keep: Collection[str] = ()
    ) -> Iterator[Path]:
        """Gives a folder to write to; it takes the place of the run when the body ends well.

        An older run is exchanged for the new one in a single step: whatever kills this process
        leaves one or the other whole. Files of the older run that the new one lacks are gone then,
        and what efface did not write stays. When the body raises, the run is what it was.

        Where systems cannot do that, and in folders that hold other things and no run, files are
        moved one by one, the record last.

        Args:
            owned: names that are replaced; others stay.
            keep: names among them that stay as well.
        """
        staging, going = self.path / _STAGING, set(owned) - set(keep)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        whole = _exchangeable(self.path)
        try:
            if whole:
                _clone(self.path, staging, leave={*going, _STAGING})
            yield staging
            if not (whole and _take_place(staging, self.path)):
                _move_in(staging, self.path, going)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _exchangeable(path: Path) -> bool:
    """Tells a run's own folder from others, which may hold anything and be anywhere."""
    working = Path.cwd().resolve()
    if path.is_symlink() or path.is_mount() or path.resolve() in (working, *working.parents):
        return False
    own = (path / _RECORD).exists()
    return own or all(_is_ours(entry.name) for entry in path.iterdir())


def _is_ours(name: str) -> bool:
    return name in (*_RUN, _STAGING) or name.startswith(_LOCK_FILES)


def _clone(old: Path, new: Path, *, leave: Collection[str]) -> None:
    """Makes new names for old files; the lock, which is one of them, holds for both folders."""
    shutil.copystat(old, new)
    for entry in old.iterdir():
        if entry.name in leave:
            continue
        if entry.is_dir() and not entry.is_symlink():
            (new / entry.name).mkdir()
            _clone(entry, new / entry.name, leave=())
        else:
            try:
                os.link(entry, new / entry.name, follow_symlinks=False)
            except OSError:
                shutil.copy2(entry, new / entry.name, follow_symlinks=False)


def _take_place(staging: Path, path: Path) -> bool:
    """Exchanges a run for the new one; False where the system cannot do that."""
    new = _beside(path)
    shutil.rmtree(new, ignore_errors=True)
    staging.replace(new)
    try:
        if exchanged(new, path):
            return True
        new.replace(staging)
        return False
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.resolve().with_name(f".{path.resolve().name}.new")


def _move_in(staging: Path, path: Path, going: Collection[str]) -> None:
    new = {entry.name for entry in staging.iterdir()}
    for name in {*going} - new:
        _remove(path / name)
    for name in sorted(new, key=lambda name: (name == _RECORD, name)):
        if (staging / name).is_dir():
            _remove(path / name)
        (staging / name).replace(path / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def claimed(path: Path, *, overwrite: bool, protected: Iterable[Path] = ()) -> Iterator[RunFolder]:
    """Takes a folder for a new run; see `check_free` and `locked`."""
    check_free(path, overwrite=overwrite, protected=protected)
    with locked(path) as folder:
        check_free(path, overwrite=overwrite, protected=protected)
        yield folder


def folders_of(model: str) -> list[Path]:
    """Gives the folder that a model on the command line names; none for one that comes along."""
    return [] if model in registry.BUNDLED or "\0" in model else [Path(model)]


def check_free(path: Path, *, overwrite: bool, protected: Iterable[Path] = ()) -> None:
    """Refuses a place where a new run would destroy something.

    Args:
        path: folder of the new run.
        overwrite: whether a run that is there may be replaced.
        protected: folders that are read, such as the base model and the run that is repeated.

    Raises:
        BadRequest: it holds a run, or files of somebody else under names that a run uses; or it is
            a link, a file, a model, a ledger, or protected.
    """
    _refuse_others_place(path, protected)
    if not (path / _RECORD).exists():
        _refuse_others(path)
        return
    if not overwrite:
        raise BadRequest(
            f"{path} already holds a run; give another --out, or --overwrite to replace it"
        )
    if path.is_symlink():
        raise BadRequest(f"{path} is a link, and links are not replaced; name the folder itself")
    if not _is_run(path):
        raise BadRequest(
            f"{path / _RECORD} was not written by efface, or is damaged; give another --out, or "
            "remove it yourself"
        )


def _refuse_others_place(path: Path, protected: Iterable[Path]) -> None:
    _require_folder(path)
    for each in protected:
        if path.resolve() == each.resolve():
            raise BadRequest(f"{path} is read by this very command; give another --out")
    for name, what in (("model_index.json", "model"), ("ledger.json", "ledger")):
        if (path / name).exists():
            raise BadRequest(f"{path} is the folder of a {what}; give another --out")
    if models := [each for each in path.resolve().parents if (each / "model_index.json").exists()]:
        raise BadRequest(f"{path} lies inside the model {models[0]}; give another --out")


def _require_folder(
    path: Path, needs: str = "--out needs a folder, or a name that is still free"
) -> None:
    if path.exists() and not path.is_dir():
        raise BadRequest(f"{path} is a file; {needs}")
    if not path.resolve().name:
        raise BadRequest(f"{path} holds all files there are; --out needs a folder of its own")


def _refuse_others(path: Path) -> None:
    """Sees to it that the first files of a run replace nothing."""
    if (path / _STAGING).exists() or not path.is_dir():
        return  # Of a killed command, which found it free; or free.
    if taken := [name for name in _RUN if (path / name).exists() or (path / name).is_symlink()]:
        raise BadRequest(
            f"{path} holds no run but '{taken[0]}', which a run would replace; give another --out"
        )


def _is_run(path: Path) -> bool:
    if _has_delta(path):
        return True
    try:
        return {"delta", "method"} <= read_json_object(path / _RECORD).keys()
    except (OSError, BadRequest):
        return False


def _has_delta(path: Path) -> bool:
    return header_facts(path / _DELTA).get("format") == "efface-delta"


@contextmanager
def locked(path: Path) -> Iterator[RunFolder]:
    """Takes a run's folder for writing; the operating system frees it if the process dies.

    A folder that this call made is removed again if nothing was put into it, and what a killed
    process left beside it is removed.

    Raises:
        BadRequest: another process is writing there, or the path is a file.
    """
    _require_folder(path, "a run is a folder, so name that")
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        with locks.locked(path):
            shutil.rmtree(_beside(path), ignore_errors=True)
            yield RunFolder(path)
    finally:
        _remove_if_empty(path, made)


def _remove_if_empty(path: Path, made: list[Path]) -> None:
    if not made or not path.is_dir():
        return
    left = list(path.iterdir())
    if not all(entry.name.startswith(_LOCK_FILES) for entry in left):
        return
    for entry in left:
        entry.unlink(missing_ok=True)
    for folder in made:
        with suppress(OSError):
            folder.rmdir()
