"""What a run folder holds, and how it is read back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadDelta, BadRequest
from efface.runs.recipe import Recipe, recipe_from

if TYPE_CHECKING:
    from efface.deltas.delta import Delta

__all__ = [
    "DELTA",
    "RECORD",
    "Recipe",
    "Run",
    "folder_of",
    "open_run",
    "read_delta",
    "recipe_of",
    "without_gate",
]

DELTA = "delta.safetensors"
RECORD = "run.json"


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    folder: Path
    record: dict[str, Any]
    delta: Delta


def without_gate(delta: Delta) -> str:
    """Says what becomes of a delta's gate in files that hold weights alone, if it has one."""
    return "" if delta.gate is None else "; the gate is dropped: it acts on every prompt"


def open_run(source: Path) -> Run:
    """Reads a run from its folder or its run.json, and checks that its files belong together.

    Raises:
        BadRequest: there is no run there.
        BadDelta: the delta is broken, or is not the one that run.json names.
    """
    from efface.deltas.delta import Delta

    folder = folder_of(source)
    record = _read_record(folder)
    delta = Delta.load(folder)
    expected = _text(record.get("sha256"), DELTA)
    found = hashlib.sha256((folder / DELTA).read_bytes()).hexdigest()
    if record.get("delta", delta.id) != delta.id or expected not in ("", found):
        raise BadDelta(
            f"{folder / DELTA} is not the file that {RECORD} names (delta {delta.id}, sha256 "
            f"{found[:12]}; expected {record.get('delta')}, {expected[:12] or 'any'}); it was "
            "replaced or a run was interrupted: erase again"
        )
    return Run(folder, record, delta)


def read_delta(source: Path) -> Delta:
    """Reads a delta from a run, or from a file that lies beside no record.

    Raises:
        BadDelta: it is missing, corrupted, from a newer version, or not that of its run.
    """
    from efface.deltas.delta import Delta

    folder = source.parent if source.name in (DELTA, RECORD) else source
    if (folder / RECORD).is_file() and (folder / DELTA).is_file():
        return open_run(folder).delta
    return Delta.load(source)


def recipe_of(source: Path) -> Recipe:
    """Reads from a run.json what made the delta.

    Raises:
        BadRequest: the file is missing, or does not hold a recipe.
    """
    record = _read_record(folder_of(source))
    try:
        return recipe_from(record)
    except (KeyError, TypeError, ValueError, AttributeError, BadRequest) as error:
        raise BadRequest(
            f"{source} does not say how to repeat the run ({error}); it needs the recipe that "
            "efface erase writes"
        ) from error


def folder_of(source: Path) -> Path:
    """Gives a run's folder, also when its run.json is named."""
    return source.parent if source.name == RECORD else source


def _text(values: Any, name: str) -> str:
    found = values.get(name) if isinstance(values, dict) else None
    return found if isinstance(found, str) else ""


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise BadRequest(
            f"there is no run at {folder} (no {RECORD} in it); make one with efface erase"
        ) from None
    except (ValueError, TypeError) as error:
        raise BadRequest(f"{path} is damaged ({error}); erase again") from error
