"""What a run folder holds, how it is filled, and how it is read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.concepts import ErasureRequest, described, request_from
from efface.errors import BadDelta, BadRequest
from efface.files import read_json_object, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from efface.cli.output import Output
    from efface.contracts import Monitor
    from efface.deltas.delta import Delta
    from efface.deltas.results import ErasureResult

__all__ = [
    "DELTA",
    "RECORD",
    "REPORTS",
    "Recipe",
    "Run",
    "erase",
    "extend_record",
    "folder_of",
    "open_run",
    "other_facts",
    "other_reports",
    "read_delta",
    "recipe_of",
    "record_reports",
    "same_recipe",
    "without_gate",
]

DELTA = "delta.safetensors"
RECORD = "run.json"
REPORTS = "reports"
"""Under this name run.json has the hashes of what was written when the run was measured."""


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


def record_reports(folder: Path, names: Sequence[str]) -> None:
    """Writes the hashes of reports into run.json, so that others in their place are noticed."""
    record = _read_record(folder)
    record[REPORTS] = {name: _sha256(folder / name) for name in names if (folder / name).is_file()}
    write_atomically(folder / RECORD, (json.dumps(record, indent=2, default=str) + "\n").encode())


def other_reports(run: Run) -> tuple[str, ...]:
    """Lists reports that are not those that were written when the run was measured."""
    expected: Mapping[str, str] = run.record.get(REPORTS) or {}
    return tuple(
        name
        for name, digest in sorted(expected.items())
        if not (run.folder / name).is_file() or _sha256(run.folder / name) != digest
    )


def other_facts(run: Run) -> tuple[str, ...]:
    """Says where run.json tells something else of the delta than the delta itself."""
    made = json.loads(json.dumps(asdict(run.delta.provenance), default=str))
    found = [
        f"{name} is {_short(run.record[name])} in {RECORD} and {_short(value)} in the delta"
        for name, value in made.items()
        if name in run.record and run.record[name] != value
    ]
    recipe = run.record.get("recipe")
    told, own = (
        _erased(recipe.get("request") if isinstance(recipe, dict) else None),
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
    folder = folder_of(source)
    record = _read_record(folder)
    delta = read_delta(folder)
    hashes = record.get("sha256", {})
    expected = hashes.get(DELTA) if isinstance(hashes, dict) else str(hashes)
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
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadRequest(
            f"{source} does not say how to repeat the run ({error}); it needs the recipe that "
            "efface erase writes"
        ) from error


def same_recipe(first: Recipe, second: Recipe) -> bool:
    """Says whether two recipes are written alike, and so give the same delta."""
    written = [
        json.dumps(
            {**asdict(each), "request": described(each.request)}, default=str, sort_keys=True
        )
        for each in (first, second)
    ]
    return written[0] == written[1]


def folder_of(source: Path) -> Path:
    """Gives a run's folder, also when its run.json is named."""
    return source.parent if source.name == RECORD else source


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        return read_json_object(path, advice="erase again")
    except (FileNotFoundError, NotADirectoryError):
        raise BadRequest(
            f"there is no run at {folder} (no {RECORD} in it); make one with efface erase"
        ) from None
