"""``efface generate``: pictures from prompts and seeds, with deltas applied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from efface.cli import guiding
from efface.cli.asking import Placed
from efface.cli.shell import Repeated, parse
from efface.errors import BadRequest
from efface.workbench import drawing, lineage
from efface.workbench.models import BUNDLED, load_host, refuse_readers

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.contracts import Guide

__all__ = ["Drawing", "Generate", "Shown", "draw_with", "run"]


@dataclass(frozen=True, kw_only=True)
class Drawing(guiding.Guiding, Placed):
    """What to draw and how."""

    prompt: Repeated = ()
    """What to draw; repeat for several pictures."""
    out: Path | None = None
    """PNG file to write; several pictures get numbers before the ending."""
    seed: int = 0
    """Seed of the first noise; the same for every prompt."""
    steps: int | None = None
    """Denoising steps; by default 20 for the bundled model, 50 for others."""
    guidance: float | None = None
    """Classifier-free guidance scale; by default 3 for the bundled model, 7.5 for others."""
    scale: float = 1.0
    """How much of the deltas to apply: 0 is the base model, 1 the erased one."""


@dataclass(frozen=True, kw_only=True)
class Generate(Drawing):
    """A model and any number of deltas."""

    model: str = BUNDLED
    """The bundled model, a diffusers folder, or a hub id."""
    delta: Repeated = ()
    """Run folder or delta file to apply; repeat for several."""


def run(arguments: list[str], output: Output) -> int:
    """Draws every prompt with the same seed."""
    common, guides = guiding.guides_of(arguments)
    options = parse(
        Generate, common, prog="efface generate", description="Draws pictures from prompts."
    )
    shown = Shown("generate", options.model, tuple(map(Path, options.delta)), guides)
    return draw_with(options, shown, output)


@dataclass(frozen=True)
class Shown:
    """The model that draws, and what is put on it."""

    verb: str
    model: str
    deltas: tuple[Path, ...]
    guides: Sequence[Guide] = ()


def draw_with(options: Drawing, shown: Shown, output: Output) -> int:
    """Loads, applies, draws and writes.

    Raises:
        BadRequest: no prompt, no file to draw to, or a model that draws nothing.
        BadDelta: a delta is broken, or was made for another base.
    """
    model = shown.model
    refuse_readers(model, shown.verb)
    if not options.prompt:
        raise BadRequest("nothing to draw: give --prompt TEXT, once per picture")
    if options.out is None:
        raise BadRequest("nowhere to draw to: give --out FILE.png")
    places = _places(options.out, len(options.prompt))
    if not math.isfinite(options.scale):
        raise BadRequest(f"scale is {options.scale}; give a number, 1 for the whole change")
    if options.scale != 1 and not shown.deltas:
        raise BadRequest(f"--scale {options.scale:g} is of deltas, and none is given; add --delta")
    shots = [drawing.Shot(prompt, options.seed) for prompt in options.prompt]
    drawing.check_drawing(
        shots, drawing.sampling_for(model, steps=options.steps, guidance=options.guidance)
    )
    every = [delta for path in shown.deltas for delta in lineage.deltas_with_parents(path)]
    changes = [*{delta.id: delta for delta in every}.values()]
    sampling = drawing.sampling_for(model, steps=options.steps, guidance=options.guidance)
    pipe = load_host(model, output, options)
    with ExitStack() as applied, output.progress("drawing") as monitor:
        for change in changes:
            applied.enter_context(change.apply(pipe, scale=options.scale))
        guided = []
        if shown.guides:
            guided = drawing.draw_guided(pipe, shots, sampling, monitor, guides=shown.guides)
            pictures = [image for part in guided for image in part.images]
        else:
            pictures = drawing.draw(pipe, shots, sampling, monitor)
    for picture, path in zip(pictures, places, strict=True):
        drawing.write_png(picture, path)
    note = drawing.guidance_note(pipe, sampling)
    notes = [] if note is None else [note]
    output.say(*(f"wrote {path}" for path in places), *notes, *guiding.told(guided))
    result = {"images": [str(path) for path in places], "deltas": [c.id for c in changes]}
    result |= {"notes": notes} if notes else {}
    output.result({**result, **guiding.record(guided, shown.guides)})
    return 0


def _places(out: Path, count: int) -> list[Path]:
    """Names the files of so many pictures.

    Raises:
        BadRequest: they are not to be PNG files, or replace something that efface did not draw.
    """
    if out.suffix.lower() != ".png":
        raise BadRequest(f"{out} does not end in .png, and pictures are written as PNG; rename it")
    places = [out if count == 1 else out.with_stem(f"{out.stem}-{i}") for i in range(count)]
    for place in places:
        if place.is_symlink():
            raise BadRequest(f"{place} is a link, and links are not replaced; give another --out")
        if place.exists() and not drawing.is_drawn(place):
            raise BadRequest(f"{place} is there already and efface did not draw it; rename --out")
    return places
