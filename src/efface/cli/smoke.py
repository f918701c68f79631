"""A few pictures kept with a run, so that anybody can check later that it still does the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.cli.drawing import Sampling, Shot, draw, write_png
from efface.concepts import ErasureRequest, wordings
from efface.contracts import silent
from efface.errors import BadRequest

if TYPE_CHECKING:
    from PIL.Image import Image

    from efface.contracts import Monitor
    from efface.core.deltas import Delta

__all__ = ["FOLDER", "TOLERANCE", "Difference", "compare", "has_smoke", "shots_for", "write_smoke"]

FOLDER = "smoke"
TOLERANCE = 2.0
"""Mean difference, in levels of 255, that still counts as the same: processors round differently."""
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


def write_smoke(
    folder: Path, pipe: Any, delta: Delta, shots: Sequence[Shot], sampling: Sampling
) -> None:
    """Draws the set with the delta applied and writes it with all that is needed to redraw it."""
    (folder / FOLDER).mkdir()
    for number, picture in enumerate(_drawn(pipe, delta, shots, sampling, silent)):
        write_png(picture, _picture(folder, number))
    index = {"sampling": asdict(sampling), "shots": [asdict(shot) for shot in shots]}
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

    index = json.loads((folder / FOLDER / _INDEX).read_text(encoding="utf-8"))
    shots = [Shot(**shot) for shot in index["shots"]]
    kept = [_read(_picture(folder, number)) for number in range(len(shots))]
    drawn = _drawn(pipe, delta, shots, Sampling(**index["sampling"]), monitor)
    apart = []
    for old, new in zip(kept, drawn, strict=True):
        if old.size != new.size:
            raise BadRequest(f"the kept pictures are {old.size} and this model draws {new.size}")
        levels = [numpy.asarray(picture.convert("RGB"), dtype=numpy.int16) for picture in (old, new)]
        apart.append(numpy.abs(levels[0] - levels[1]))
    return Difference(
        pictures=len(apart),
        equal=sum(int(not one.any()) for one in apart),
        mean=max(float(one.mean()) for one in apart),
        largest=max(int(one.max()) for one in apart),
    )


def _drawn(
    pipe: Any, delta: Delta, shots: Sequence[Shot], sampling: Sampling, monitor: Monitor
) -> list[Image]:
    with delta.apply(pipe):
        return draw(pipe, shots, sampling, monitor)


def _picture(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"{number}.png"


def _read(path: Path) -> Image:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise BadRequest(f"the kept picture {path} cannot be read ({error})") from error

