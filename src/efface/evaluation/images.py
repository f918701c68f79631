"""Pictures drawn once per (model, delta, sample) and kept; every metric reads the same ones."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from efface.contracts import Monitor, Sample, Suite, silent
from efface.errors import MeasurementFailed
from efface.evaluation.drawing import Drawn, draw
from efface.files import parse_json, write_atomically

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["ImageStore", "Source", "Spent"]

_NOTE = "efface"
"""Name of the PNG text that holds what a picture is and what it cost."""


@dataclass(frozen=True)
class Source:
    """What draws: a model, maybe changed by a delta, with a way of sampling."""

    model: str
    """Content hash of the unedited model."""
    delta: str | None
    steps: int
    guidance: float

    @classmethod
    def of(cls, suite: Suite, model: str, delta: str | None = None) -> Source:
        """Takes the way of sampling from a suite."""
        return cls(model, delta, suite.steps, suite.guidance)

    @property
    def key(self) -> str:
        """Sixteen hex digits that depend on every field; the folder's name."""
        text = json.dumps([self.model, self.delta, self.steps, float(self.guidance)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Spent:
    """What drawing a set of pictures cost, also in earlier runs."""

    pictures: int
    seconds: float
    evaluations: float


@dataclass(frozen=True)
class ImageStore:
    """A folder of PNG files: ``<source key>/<sample id>.png``."""

    folder: Path
    batch_size: int = 16
    """Pictures drawn and scored at a time."""

    def path(self, source: Source, sample: Sample) -> Path:
        """Says where a picture is, or will be."""
        return self.folder / source.key / f"{sample.id}.png"

    def missing(self, source: Source, samples: Iterable[Sample]) -> tuple[Sample, ...]:
        """Lists samples without a readable picture."""
        return tuple(one for one in samples if _note(self.path(source, one)) is None)

    def fill(
        self, pipe: Any, source: Source, samples: Sequence[Sample], monitor: Monitor = silent
    ) -> int:
        """Draws what is missing and returns how many pictures that were.

        Every picture is written in one step as soon as its batch is drawn, so an interrupted run
        goes on where it stopped.

        Raises:
            MeasurementFailed: see `draw`.
            BadRequest: a picture cannot be written.
        """
        missing = self.missing(source, samples)
        done = 0
        for batch in self._batches(missing):
            drawn = draw(pipe, batch, steps=source.steps, guidance=source.guidance)
            for place, sample in enumerate(batch):
                write_atomically(self.path(source, sample), _png(drawn, place, sample))
            done += len(batch)
            monitor(done - 1, len(missing), {"seconds per picture": drawn.seconds})
        return len(missing)

    def load(self, source: Source, samples: Sequence[Sample]) -> Float[Tensor, "n 3 h w"]:
        """Reads pictures as pixels of 0 to 1.

        Raises:
            MeasurementFailed: a picture is not there.
        """
        return torch.stack([_pixels(self.path(source, sample)) for sample in samples])

    def batches(
        self, source: Source, samples: Sequence[Sample]
    ) -> Iterator[tuple[Sequence[Sample], Float[Tensor, "n 3 h w"]]]:
        """Reads pictures batch by batch, so that large ones fit into memory."""
        for batch in self._batches(samples):
            yield batch, self.load(source, batch)

    def spent(self, source: Source, samples: Iterable[Sample]) -> Spent:
        """Adds up what the pictures cost when they were drawn."""
        notes = [note for one in samples if (note := _note(self.path(source, one)))]
        seconds = sum(note["seconds"] for note in notes)
        return Spent(len(notes), seconds, sum(note["evaluations"] for note in notes))

    def _batches(self, samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
        for start in range(0, len(samples), self.batch_size):
            yield samples[start : start + self.batch_size]


def _png(drawn: Drawn, place: int, sample: Sample) -> bytes:
    facts = {
        "prompt": sample.prompt,
        "seed": sample.seed,
        "seconds": drawn.seconds,
        "evaluations": drawn.evaluations,
    }
    info = PngImagePlugin.PngInfo()
    info.add_text(_NOTE, json.dumps(facts))
    buffer = io.BytesIO()
    Image.fromarray(drawn.pixels[place]).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def _note(path: Path) -> dict[str, Any] | None:
    """Reads a picture's note; None when there is no whole picture of ours."""
    try:
        with Image.open(path) as image:
            image.load()
            return dict(parse_json(image.text[_NOTE]))  # type: ignore[attr-defined]
    except (OSError, UnidentifiedImageError, KeyError, ValueError, AttributeError):
        return None


def _pixels(path: Path) -> Float[Tensor, "3 h w"]:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    except OSError as error:
        raise MeasurementFailed(f"the picture {path.name} cannot be read: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255
