"""What a run folder holds, how it is filled, and how it is read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.concepts import ErasureRequest, described, request_from
from efface.errors import BadDelta, BadRequest
from efface.files import read_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from efface.cli.output import Output
    from efface.contracts import Monitor
    from efface.deltas.delta import Delta
    from efface.deltas.results import ErasureResult

__all__ = [
    "DELTA",
    "RECORD",
    "Recipe",
    "Run",
    "erase",
    "extend_record",
    "folder_of",
    "open_run",
    "read_delta",
    "recipe_of",
]

DELTA = "delta.safetensors"
RECORD = "run.json"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a delta."""

    model: str
    method: str
    preset: str | None
    settings: Mapping[str, Any]
    """Those that were given; the rest are the preset's or the class's."""
    seed: int
    request: ErasureRequest


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    folder: Path
    record: dict[str, Any]
    delta: Delta


def erase(
    pipe: Any,
    recipe: Recipe,
    output: Output,
    *,
    watch: Callable[[Monitor], Monitor] | None = None,
    **places: Any,
) -> ErasureResult:
    """Runs the method behind a progress bar.

    Args:
        pipe: the model.
        recipe: everything that decides the delta.
        output: where progress is shown.
        watch: wraps the bar's monitor, to look on at every step.
        **places: ``cache``, ``checkpoint`` and ``resume`` of `efface.erase`.
    """
    import efface
    from efface.progress import watching

    with (
        output.progress(f"erasing with {recipe.method}") as bar,
        watching(bar.before),
    ):
        return efface.erase(
            pipe,
            recipe.request,
            method=recipe.method,
            preset=recipe.preset,
            seed=recipe.seed,
            monitor=bar if watch is None else watch(bar),
            **places,
            **recipe.settings,
        )


def without_gate(delta: Delta) -> str:
    """Says what becomes of a delta's gate in files that hold weights alone, if it has one."""
    return "" if delta.gate is None else "; the gate is dropped: it acts on every prompt"


def extend_record(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Adds to run.json what a rerun needs and the hash of the delta file."""
    record = _read_record(folder)
    record["recipe"] = {**asdict(recipe), "request": described(recipe.request)}
    record["sha256"] = {DELTA: hashlib.sha256((folder / DELTA).read_bytes()).hexdigest()}
    text = json.dumps(record, indent=2, default=str) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")
    return record


def open_run(source: Path) -> Run:
    """Reads a run from its folder or its run.json, and checks that its files belong together.

    Raises:
        BadRequest: there is no run there.
        BadDelta: the delta is broken, or is not the one that run.json names.
    """
    folder = folder_of(source)
    record = _read_record(folder)
    delta = read_delta(folder)
    expected = record.get("sha256", {}).get(DELTA)
    found = hashlib.sha256((folder / DELTA).read_bytes()).hexdigest()
    if expected is not None and expected != found:
        raise BadDelta(
            f"{folder / DELTA} is not the file that {RECORD} names (sha256 {found[:12]}, expected "
            f"{expected[:12]}); it was replaced or a run was interrupted: erase again"
        )
    return Run(folder, record, delta)


def read_delta(source: Path) -> Delta:
    """Reads a delta from a run folder or a file.

    Raises:
        BadDelta: it is missing, corrupted or from a newer version.
    """
    from efface.deltas.delta import Delta

    return Delta.load(source)


def recipe_of(source: Path) -> Recipe:
    """Reads from a run.json what made the delta.

    Raises:
        BadRequest: the file is missing, or does not hold a recipe.
    """
    record = _read_record(folder_of(source))
    try:
        fields = dict(record["recipe"])
        return Recipe(**{**fields, "request": request_from(fields["request"])})
    except (KeyError, TypeError) as error:
        raise BadRequest(
            f"{source} does not say how to repeat the run ({error}); it needs the recipe that "
            "efface erase writes"
        ) from error


def folder_of(source: Path) -> Path:
    """Gives a run's folder, also when its run.json is named."""
    return source.parent if source.name == RECORD else source


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        return dict(read_json(path))
    except (FileNotFoundError, NotADirectoryError):
        raise BadRequest(
            f"there is no run at {folder} (no {RECORD} in it); make one with efface erase"
        ) from None
    except (ValueError, TypeError) as error:
        raise BadRequest(f"{path} is damaged ({error}); erase again") from error
