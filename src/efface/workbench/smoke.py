"""A few pictures kept with a run, so that anybody can check later that it still does the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.concepts import ErasureRequest, wordings
from efface.errors import BadRequest, MeasurementFailed
from efface.files import read_json_object
from efface.workbench.drawing import Sampling, Shot, check_drawing, draw, write_png

if TYPE_CHECKING:
    from PIL.Image import Image

    from efface.contracts import Monitor
    from efface.deltas.delta import Delta

__all__ = [
    "FOLDER",
    "STEPS",
    "TOLERANCE",
    "Difference",
    "compare",
    "drawn",
    "has_smoke",
    "shots_for",
    "write_smoke",
]

FOLDER = "smoke"
TOLERANCE = 2.0
"""Mean difference in levels of 255 that counts as the same: processors round differently."""
STEPS = 10
"""Denoising steps: enough to see the erasure, few enough to redraw anywhere."""
_CONCEPTS = 2
_INDEX = "smoke.json"


@dataclass(frozen=True)
class Difference:
    """How far redrawn pictures are from those kept with the run."""

    pictures: int
    equal: int
    """Pictures that are the same in every pixel."""
    mean: float
    """Mean absolute difference of the worst picture, in levels of 255."""
    largest: int
    """Largest difference of any pixel, in levels of 255."""


def shots_for(request: ErasureRequest) -> tuple[Shot, ...]:
    """Picks at most two erased and two kept concepts, one picture each."""
    erased = [erasure.concept for erasure in request.erasures[:_CONCEPTS]]
    return tuple(
        Shot(wordings(concept)[0], seed)
        for seed, concept in enumerate([*erased, *request.keep[:_CONCEPTS]])
    )


def drawn(
    pipe: Any, delta: Delta, shots: Sequence[Shot], sampling: Sampling, monitor: Monitor
) -> tuple[tuple[Shot, Image], ...]:
    """Draws shots with the delta applied."""
    with delta.apply(pipe):
        return tuple(zip(shots, draw(pipe, shots, sampling, monitor), strict=True))


def write_smoke(folder: Path, pictures: Sequence[tuple[Shot, Image]], sampling: Sampling) -> None:
    """Writes pictures with all that is needed to redraw them."""
    (folder / FOLDER).mkdir()
    for number, (_, picture) in enumerate(pictures):
        write_png(picture, _picture(folder, number))
    index = {"sampling": asdict(sampling), "shots": [asdict(shot) for shot, _ in pictures]}
    (folder / FOLDER / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def has_smoke(folder: Path) -> bool:
    """Says whether pictures were kept with the run."""
    return (folder / FOLDER / _INDEX).is_file()


def compare(folder: Path, pipe: Any, delta: Delta, monitor: Monitor) -> Difference:
    """Redraws the set that was kept with a run and measures how far it is.

    Raises:
        BadRequest: a kept picture is missing or has another size.
    """
    import numpy

    shots, sampling = _index(folder)
    kept = [_read(_picture(folder, number)) for number in range(len(shots))]
    again = drawn(pipe, delta, shots, sampling, monitor)
    apart = []
    for old, (_, new) in zip(kept, again, strict=True):
        if old.size != new.size:
            raise BadRequest(f"the kept pictures are {old.size} and this model draws {new.size}")
        levels = [
            numpy.asarray(picture.convert("RGB"), dtype=numpy.int16) for picture in (old, new)
        ]
        apart.append(numpy.abs(levels[0] - levels[1]))
    return Difference(
        pictures=len(apart),
        equal=sum(int(not one.any()) for one in apart),
        mean=max(float(one.mean()) for one in apart),
        largest=max(int(one.max()) for one in apart),
    )


def _index(folder: Path) -> tuple[list[Shot], Sampling]:
    """Reads what was drawn and how.

    Raises:
        BadRequest: the file is damaged or says something that cannot be drawn.
    """
    path = folder / FOLDER / _INDEX
    advice = "erase again with --smoke to keep new pictures"
    index = read_json_object(path, advice=advice)
    try:
        shots = [Shot(str(shot["prompt"]), int(shot["seed"])) for shot in index["shots"]]
        told = index["sampling"]
        sampling = Sampling(int(told["steps"]), float(told["guidance"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadRequest(
            f"{path} is damaged ({type(error).__name__}: {error}); {advice}"
        ) from error
    if not shots:
        raise BadRequest(f"{path} lists no pictures; {advice}")
    check_drawing(shots, sampling)
    return shots, sampling


def _picture(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"{number}.png"


def _read(path: Path) -> Image:
    from efface.evaluation.pictures import read_picture

    try:
        return read_picture(path)
    except MeasurementFailed as error:
        raise BadRequest(f"the smoke set is damaged: {error}") from error
