"""What a run folder holds, and how it is read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadDelta, BadRequest
from efface.files import read_json_object, write_atomically
from efface.runs.recipe import Recipe
from efface.runs.recipe_records import recipe_from

if TYPE_CHECKING:
    from efface.deltas.delta import Delta

__all__ = [
    "ATTACKS",
    "DELTA",
    "RECORD",
    "REPORTS",
    "Recipe",
    "Run",
    "folder_of",
    "open_run",
    "other_attacks",
    "other_facts",
    "other_reports",
    "read_delta",
    "recipe_of",
    "record_attack",
    "record_of",
    "record_reports",
    "without_gate",
]

DELTA = "delta.safetensors"
RECORD = "run.json"
REPORTS = "reports"
"""Under this name run.json has the hashes of what was written when the run was measured."""
ATTACKS = "attacks"
"""The folder of attacks on a run; under the same name run.json has the hashes of its files."""


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    folder: Path
    record: dict[str, Any]
    delta: Delta


def without_gate(delta: Delta) -> str:
    """Says what becomes of a delta's gate in files that hold weights alone, if it has one."""
    return "" if delta.gate is None else "; the gate is dropped: it acts on every prompt"


def record_reports(folder: Path, names: Sequence[str]) -> None:
    """Writes the hashes of reports into run.json, so that others in their place are noticed."""
    record = record_of(folder)
    record[REPORTS] = _hashes(folder, names)
    _write_record(folder, record)


def record_attack(folder: Path, files: Sequence[Path]) -> None:
    """Writes the hashes of an attack's files into run.json, so that others are noticed."""
    record = record_of(folder)
    names = [file.relative_to(folder).as_posix() for file in files]
    record[ATTACKS] = {**(record.get(ATTACKS) or {}), **_hashes(folder, names)}
    _write_record(folder, record)


def _hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: _sha256(folder / name) for name in names if (folder / name).is_file()}


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_atomically(folder / RECORD, (json.dumps(record, indent=2, default=str) + "\n").encode())


def other_reports(run: Run) -> tuple[str, ...]:
    """Lists reports that are not those that were written when the run was measured."""
    return _others(run, REPORTS)


def other_attacks(run: Run) -> tuple[str, ...]:
    """Lists files of attacks that are not those that were written when the run was attacked.

    Records of before have no hashes, and are not among them.
    """
    return _others(run, ATTACKS)


def _others(run: Run, name: str) -> tuple[str, ...]:
    expected = run.record.get(name)
    listed: Mapping[str, str] = expected if isinstance(expected, dict) else {}
    found = _hashes(run.folder, [*listed])
    return tuple(sorted(each for each, digest in listed.items() if found.get(each) != digest))


def other_facts(run: Run) -> tuple[str, ...]:
    """Says where run.json tells something else of the delta than the delta itself."""
    made = json.loads(json.dumps(asdict(run.delta.provenance), default=str))
    recipe = run.record.get("recipe")
    recipe = recipe if isinstance(recipe, dict) else {}
    noted = made.pop("recipe") if "kind" in recipe else {}
    found = [
        f"{name} is {_short(record[name])} in {RECORD} and {_short(value)} in the delta"
        for record, values in ((run.record, made), (recipe, noted))
        for name, value in values.items()
        if name in record and record[name] != value
    ]
    told, own = (
        _erased(recipe.get("request")),
        _erased(made["request"]),
    )
    if told and own and told != own:
        found.append(f"the recipe in {RECORD} erases {_short(told)} and the delta {_short(own)}")
    return tuple(found)


def _erased(request: Any) -> list[str]:
    try:
        return sorted(str(one["concept"]["name"]).casefold() for one in request["erasures"])
    except (KeyError, TypeError, AttributeError):
        return []


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def open_run(source: Path) -> Run:
    """Reads a run from its folder or its run.json, and checks that its files belong together.

    Raises:
        BadRequest: there is no run there.
        BadDelta: the delta is broken, or is not the one that run.json names.
    """
    from efface.deltas.delta import Delta

    folder = folder_of(source)
    record = record_of(folder)
    delta = Delta.load(folder)
    hashes = record.get("sha256") or {DELTA: ""}
    expected = str(hashes.get(DELTA, "")) if isinstance(hashes, dict) else str(hashes)
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
    record = record_of(folder_of(source))
    try:
        return recipe_from(record)
    except (AttributeError, KeyError, TypeError, ValueError, BadRequest) as error:
        raise BadRequest(
            f"{source} does not say how to repeat the run ({error}); it needs the recipe that "
            "efface erase writes"
        ) from error


def folder_of(source: Path) -> Path:
    """Gives a run's folder, also when its run.json is named."""
    return source.parent if source.name == RECORD else source


def record_of(folder: Path) -> dict[str, Any]:
    """Reads the run.json of a folder.

    Raises:
        BadRequest: there is none, or it is broken.
    """
    path = folder / RECORD
    try:
        return read_json_object(path, advice="erase again")
    except (FileNotFoundError, NotADirectoryError):
        raise BadRequest(
            f"there is no run at {folder} (no {RECORD} in it); make one with efface erase"
        ) from None
