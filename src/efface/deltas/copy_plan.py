"""Which files an edited copy of a model folder takes, and which tensors in them change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.deltas.delta import Delta
from efface.deltas.provenance import SKETCH_TOLERANCE, sketch, sketch_deviation
from efface.errors import BadDelta, BadModel
from efface.files import RECORD
from efface.hosts.components import reaches
from efface.hosts.shards import StoredTensor, WeightSet, folder_json, weight_set, weight_sets

__all__ = ["CopyPlan", "applied_in", "plan_copy"]

_WEIGHTS: tuple[str, ...] = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".msgpack",
    ".h5",
    ".onnx",
    ".onnx_data",
)
_WEIGHTS += (".gguf", ".pb")
_SKIPPED_FOLDERS = {".git", ".cache"}


@dataclass(frozen=True)
class CopyPlan:
    """What a copy will hold; known from file headers, before any work."""

    files: Mapping[str, Path]
    """Every file to copy by its path inside the folder."""
    edits: Mapping[str, Mapping[str, StoredTensor]]
    """The tensors to change by file, each by its parameter key."""
    left_out: tuple[str, ...]
    """Files that hold unedited weights of an edited part."""
    bytes: int
    """Size of all files together."""


def plan_copy(folder: Path, delta: Delta) -> CopyPlan:
    """Finds the tensors that a delta changes and checks that they are those it was made for.

    Raises:
        BadModel: a file is missing or cut short, or the folder is no pipeline.
        BadDelta: another base, a missing parent, or merged already.
    """
    folder_json(folder / "model_index.json")
    _check_history(folder, delta)
    edits: dict[str, dict[str, StoredTensor]] = {}
    kept: set[Path] = set()
    parts = {key.partition("/")[0] for key in delta.keys}
    for name in sorted(parts):
        for weights, changes in _edited_sets(folder / name, delta):
            kept |= {*weights.files, *([weights.index] if weights.index else [])}
            for key, place in changes.items():
                edits.setdefault(str(place.file.relative_to(folder)), {})[key] = place
    everything = {str(file.relative_to(folder)): file for file in _files(folder)}
    left_out = {
        name
        for name, file in everything.items()
        if _holds_weights(file) and file not in kept and (file.parent == folder or _in(name, parts))
    }
    files = {name: file for name, file in everything.items() if name not in left_out | {RECORD}}
    size = sum(file.stat().st_size for file in files.values())
    return CopyPlan(files, edits, tuple(sorted(left_out)), size)


def _check_all_found(delta: Delta, part: str, changes: Mapping[str, StoredTensor]) -> None:
    """Sees to it that no patch is passed over because its key names nothing here."""
    own = [key for key in delta.keys if key.startswith(f"{part}/")]
    if lost := [key for key in own if not any(reaches(key, found) for found in changes)]:
        raise BadDelta(
            f"this model has nothing under '{lost[0]}'; delta {delta.id} is for another model"
        )


def applied_in(folder: Path) -> list[dict[str, Any]]:
    """Lists the deltas that are merged into a folder, as its record says; none without a record.

    Raises:
        BadModel: the record is damaged.
    """
    if not (folder / RECORD).exists():
        return []
    merged = folder_json(folder / RECORD).get("merged")
    if not isinstance(merged, list) or not all(
        isinstance(each, dict) and "delta" in each for each in merged
    ):
        raise BadModel(f"{folder / RECORD} does not list what is merged; copy the model again")
    return merged


def _check_history(folder: Path, delta: Delta) -> None:
    present = set()
    for each in applied_in(folder):
        present |= {each["delta"], *each.get("provenance", {}).get("parts", ())}
    if delta.id in present:
        raise BadDelta(f"delta {delta.id} is merged into {folder} already; take its base model")
    if missing := [parent for parent in delta.provenance.parents if parent not in present]:
        raise BadDelta(
            f"delta {delta.id} was made on top of {', '.join(missing)}, which {folder} lacks; "
            "merge that first, or compose the deltas"
        )


def _edited_sets(part: Path, delta: Delta) -> Iterator[tuple[WeightSet, dict[str, StoredTensor]]]:
    """Gives the weights that libraries load first, and every variant of the same base."""
    if not part.is_dir():
        raise BadDelta(
            f"{part.parent} has no part '{part.name}', which delta {delta.id} changes; "
            "the delta is for another kind of model"
        )
    usual = weight_set(part)
    yield usual, _changes(part.name, usual, delta)
    for other in weight_sets(part):
        if other == usual:
            continue
        try:
            yield other, _changes(part.name, other, delta)
        except (BadDelta, BadModel):
            continue  # Left out and listed: it would bring the concept back.


def _changes(part: str, weights: WeightSet, delta: Delta) -> dict[str, StoredTensor]:
    tensors = {f"{part}/{path}": place for path, place in weights.tensors().items()}
    wanted = {key for key in delta.provenance.base_sketch if key.startswith(f"{part}/")}
    if absent := sorted(wanted - tensors.keys()):
        raise BadDelta(
            f"this model has no parameter '{absent[0]}'; delta {delta.id} is for another model"
        )
    found = {key: place for key, place in tensors.items() if delta.covering(key)}
    _check_all_found(delta, part, found)
    for key, place in found.items():
        _check_base(delta, key, place)
    return found


def _check_base(delta: Delta, key: str, place: StoredTensor) -> None:
    expected = delta.provenance.base_sketch.get(key)
    if expected is None:
        raise BadDelta(f"delta {delta.id} has no sketch of {key}, which it changes; make it again")
    deviation = sketch_deviation(sketch(place.mapped()), expected)
    if not deviation <= SKETCH_TOLERANCE:
        raise BadDelta(
            f"delta {delta.id} was made for {delta.provenance.base_model} and {key} in "
            f"{place.file} differs from it by {deviation:.1%} (up to {SKETCH_TOLERANCE:.0%} is the "
            "same model); give the base it was made for"
        )


def _files(folder: Path) -> Iterator[Path]:
    """Lists what a copy takes; links are followed inside the folder and a download's own store.

    Raises:
        BadModel: a link leads elsewhere, nowhere or in a circle, or something is not a file.
    """
    allowed = [folder.resolve()]
    if folder.absolute().parent.name == "snapshots":  # The hub's cache keeps files beside these.
        allowed.append(folder.absolute().parents[1].resolve() / "blobs")
    yield from _walked(folder, allowed, (folder.resolve(),))


def _walked(place: Path, allowed: Sequence[Path], above: tuple[Path, ...]) -> Iterator[Path]:
    for file in sorted(place.iterdir()):
        try:
            real = file.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise BadModel(
                f"{file} is a link that leads nowhere or in a circle ({error}); remove it"
            ) from error
        if not any(each in (real, *real.parents) for each in allowed):
            raise BadModel(
                f"{file} is a link out of the model's folder, to {real}, which a copy would "
                "publish; put the file itself there, or remove the link"
            )
        if file.is_dir():
            if real in above:
                raise BadModel(f"{file} is a link to a folder that holds it; remove it")
            if file.name not in _SKIPPED_FOLDERS:
                yield from _walked(file, allowed, (*above, real))
        elif file.is_file():
            yield file
        else:
            raise BadModel(f"{file} is a pipe, a socket or a device and not a file; remove it")


def _holds_weights(file: Path) -> bool:
    return file.name.endswith(_WEIGHTS) or ".safetensors.index" in file.name


def _in(name: str, parts: set[str]) -> bool:
    return name.partition("/")[0] in parts
