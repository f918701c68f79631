"""Pictures drawn once per (model, delta, sample) and kept; every metric reads the same ones."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from efface.contracts import Monitor, Sample, Suite, silent
from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.drawing import Drawn, draw, draw_guided
from efface.evaluation.pictures import NOTE, note_of, pixel_hash, read_picture
from efface.files import write_atomically
from efface.guiding.drawing import NOTHING
from efface.guiding.records import rebuilt
from efface.memory import MemoryRanOut, translating_out_of_memory

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["ImageStore", "Source", "Spent"]


@dataclass(frozen=True)
class Source:
    """What draws: a model, maybe changed by a delta, with a way of sampling."""

    model: str
    """Content hash of the unedited model."""
    delta: str | None
    steps: int
    guidance: float
    guides: str = ""
    """What steers sampling, as `efface.guiding.records` writes it; empty: nothing."""
    guided_by: str = ""
    """The pipeline's word for guidance; empty: ``guidance_scale``."""

    @classmethod
    def of(cls, suite: Suite, model: str, *, guided_by: str = "") -> Source:
        """Takes the way of sampling from a suite."""
        return cls(model, None, suite.steps, suite.guidance, guided_by=guided_by)

    @property
    def key(self) -> str:
        """Sixteen hex digits that depend on every field; the folder's name."""
        facts = [self.model, self.delta, self.steps, float(self.guidance)]
        named = {"guided_by": self.guided_by} if self.guided_by else None
        text = json.dumps([*facts, *(each for each in (self.guides, named) if each)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Spent:
    """What drawing a set of pictures cost, also in earlier runs."""

    pictures: int
    seconds: float
    evaluations: float


@dataclass(frozen=True)
class ImageStore:
    """A folder of PNG files: ``<source key>/<sample id>.png``.

    A picture says which model, delta, sampling, prompt and seed drew it, and has a hash of its
    pixels. What does not agree with that is not the picture that was drawn: it was changed,
    swapped, linked or cut short, and it is drawn anew.
    """

    folder: Path
    batch_size: int = 16
    """Pictures drawn and scored at a time."""

    def path(self, source: Source, sample: Sample) -> Path:
        """Says where a picture is, or will be."""
        return self.folder / source.key / f"{sample.id}.png"

    def missing(self, source: Source, samples: Iterable[Sample]) -> tuple[Sample, ...]:
        """Lists samples without the picture that was drawn of them."""
        return tuple(one for one in samples if self._note(source, one) is None)

    def foreign(self, source: Source, samples: Iterable[Sample]) -> tuple[Sample, ...]:
        """Lists samples in whose place a file lies that is not the picture that was drawn."""
        there = [one for one in samples if _is_there(self.path(source, one))]
        return self.missing(source, there)

    def fill(
        self, pipe: Any, source: Source, samples: Sequence[Sample], monitor: Monitor = silent
    ) -> int:
        """Draws what is missing and returns how many pictures that were.

        Every picture is written in one step as soon as its batch is drawn, so an interrupted run
        goes on where it stopped. Where a batch does not fit into memory, smaller ones are drawn.

        Raises:
            MeasurementFailed: see `draw`.
            MemoryRanOut: a single picture does not fit.
            BadRequest: a picture cannot be written, or the folder is a link to another one.
        """
        self._refuse_links(source)
        missing = list(self.missing(source, samples))
        done, size = 0, self.batch_size
        while done < len(missing):
            batch = missing[done : done + size]
            try:
                with translating_out_of_memory():
                    drawn = _drawn(pipe, batch, source)
            except MemoryRanOut as error:
                if len(batch) == 1:
                    raise MemoryRanOut(
                        f"{error} while drawing one picture; free some, or use a model or a device "
                        "with more room; pictures drawn so far are kept"
                    ) from error
                size = len(batch) // 2
                continue
            for place, sample in enumerate(batch):
                write_atomically(self.path(source, sample), _png(drawn, place, source, sample))
            done += len(batch)
            monitor(done - 1, len(missing), {"seconds per picture": drawn.seconds})
        return len(missing)

    def load(self, source: Source, samples: Sequence[Sample]) -> Float[Tensor, "n 3 h w"]:
        """Reads pictures as pixels of 0 to 1.

        Raises:
            MeasurementFailed: a picture is not there, or is not the one that was drawn.
        """
        return torch.stack([self._pixels(source, sample) for sample in samples])

    def hashes(self, source: Source, samples: Iterable[Sample]) -> dict[str, str]:
        """Gives the hash of each sample's pixels by the sample's id; none for what is missing."""
        notes = {one.id: self._note(source, one) for one in samples}
        return {name: str(note["pixels"]) for name, note in notes.items() if note}

    def batches(
        self, source: Source, samples: Sequence[Sample]
    ) -> Iterator[tuple[Sequence[Sample], Float[Tensor, "n 3 h w"]]]:
        """Reads pictures batch by batch, so that large ones fit into memory."""
        for start in range(0, len(samples), self.batch_size):
            batch = samples[start : start + self.batch_size]
            yield batch, self.load(source, batch)

    def spent(self, source: Source, samples: Iterable[Sample]) -> Spent:
        """Adds up what the pictures cost when they were drawn."""
        notes = [note for one in samples if (note := self._note(source, one))]
        seconds = sum(float(note["seconds"]) for note in notes)
        return Spent(len(notes), seconds, sum(float(note["evaluations"]) for note in notes))

    def unmoved(self, source: Source, samples: Iterable[Sample]) -> dict[str, int]:
        """Counts, by guide, the pictures that it was to change and did not."""
        changes = [note.get("changes", {}) for one in samples if (note := self._note(source, one))]
        names = dict.fromkeys(name for each in changes for name in each)
        still = {
            name: sum(each.get(name) is not None and each[name] <= NOTHING for each in changes)
            for name in names
        }
        return {name: count for name, count in still.items() if count}

    def _refuse_links(self, source: Source) -> None:
        folder = self.folder / source.key
        if folder.is_symlink():
            raise BadRequest(
                f"{folder} is a link, so pictures would be written into {folder.resolve()}, which "
                "holds those of another model; remove the link and run again"
            )

    def _note(self, source: Source, sample: Sample) -> dict[str, Any] | None:
        """Reads a picture's note; None when this is not the whole picture of this sample."""
        try:
            return _read(self.path(source, sample), source, sample)[1]
        except MeasurementFailed:
            return None

    def _pixels(self, source: Source, sample: Sample) -> Float[Tensor, "3 h w"]:
        pixels, _ = _read(self.path(source, sample), source, sample)
        return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) / 255


def _drawn(pipe: Any, batch: Sequence[Sample], source: Source) -> Drawn:
    ways: dict[str, Any] = {"steps": source.steps, "guidance": source.guidance}
    if source.guides:
        return draw_guided(pipe, batch, rebuilt(source.guides), **ways)
    return draw(pipe, batch, **ways)


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _facts(source: Source, sample: Sample) -> dict[str, Any]:
    """Gives what decides a picture, as its note has it."""
    drawn = asdict(source) | {"guidance": float(source.guidance)}
    for name in ("guides", "guided_by"):
        if not drawn[name]:
            del drawn[name]  # as in pictures that were drawn before there were any
    return {**drawn, "sample": sample.id, "prompt": sample.prompt, "seed": sample.seed}


def _png(drawn: Drawn, place: int, source: Source, sample: Sample) -> bytes:
    pixels = drawn.pixels[place]
    facts = {
        **_facts(source, sample),
        "pixels": pixel_hash(pixels),
        "seconds": drawn.seconds,
        "evaluations": drawn.evaluations,
        **({"changes": drawn.changes[place]} if drawn.changes else {}),
    }
    info = PngImagePlugin.PngInfo()
    info.add_text(NOTE, json.dumps(facts))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def _read(path: Path, source: Source, sample: Sample) -> tuple[np.ndarray, dict[str, Any]]:
    """Reads a picture and its note, and compares both with what should have been drawn.

    Raises:
        MeasurementFailed: the picture is missing, or is another one.
    """
    picture = read_picture(path)
    pixels, note = np.asarray(picture), note_of(picture)
    wanted = {**_facts(source, sample), "pixels": pixel_hash(pixels)}
    if any(note.get(name) != value for name, value in wanted.items()):
        raise MeasurementFailed(
            f"{path} is not the picture that was drawn of '{sample.prompt}' with seed "
            f"{sample.seed}; evaluate again, and it is drawn anew"
        )
    return pixels, note
