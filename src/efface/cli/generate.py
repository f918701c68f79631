"""``efface generate``: pictures from prompts and seeds, with deltas applied."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.cli import drawing, runs
from efface.cli.hosts import BUNDLED, load_host
from efface.cli.shell import Repeated, Shared, parse
from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Drawing", "Generate", "draw_with", "run"]


@dataclass(frozen=True, kw_only=True)
class Drawing(Shared):
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
    """Classifier-free guidance scale; by default 4 for the bundled model, 7.5 for others."""
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
    options = parse(
        Generate, arguments, prog="efface generate", description="Draws pictures from prompts."
    )
    return draw_with(options, options.model, tuple(map(Path, options.delta)), output)


def draw_with(options: Drawing, model: str, deltas: tuple[Path, ...], output: Output) -> int:
    """Loads, applies, draws and writes.

    Raises:
        BadRequest: no prompt, or no file to draw to.
        BadDelta: a delta is broken, or was made for another base.
    """
    if not options.prompt:
        raise BadRequest("nothing to draw: give --prompt TEXT, once per picture")
    if options.out is None:
        raise BadRequest("nowhere to draw to: give --out FILE.png")
    changes = [runs.read_delta(path) for path in deltas]
    sampling = drawing.sampling_for(model, steps=options.steps, guidance=options.guidance)
    pipe = load_host(model, output)
    shots = [drawing.Shot(prompt, options.seed) for prompt in options.prompt]
    with ExitStack() as applied, output.progress("drawing") as monitor:
        for change in changes:
            applied.enter_context(change.apply(pipe, scale=options.scale))
        pictures = drawing.draw(pipe, shots, sampling, monitor)
    written = _write(pictures, options.out)
    output.say(*(f"wrote {path}" for path in written))
    output.result({"images": [str(path) for path in written], "deltas": [c.id for c in changes]})
    return 0


def _write(pictures: list[Any], out: Path) -> list[Path]:
    """Writes each picture whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    single = len(pictures) == 1
    names = [out if single else out.with_stem(f"{out.stem}-{i}") for i in range(len(pictures))]
    for picture, path in zip(pictures, names, strict=True):
        drawing.write_png(picture, path)
    return names
