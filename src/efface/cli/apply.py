"""``efface apply RUN``: pictures with a run's delta applied, or a copy of the model that has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface import registry
from efface.cli import guiding
from efface.cli.generate import Drawing, Shown, draw_with
from efface.cli.shell import parse
from efface.errors import BadRequest
from efface.workbench import lineage, runs
from efface.workbench.models import folder_of_model, load_host

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.deltas.delta import Delta

__all__ = ["Apply", "run"]


@dataclass(frozen=True, kw_only=True)
class Apply(Drawing):
    """A run and what to do with it."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or a delta file together with --model."""
    model: str | None = None
    """Another copy of the base model; by default the model that the run names."""
    in_place_copy: Path | None = None
    """Draw nothing; write a copy of the model's folder, or of its single file, that has the delta
    in its weights."""
    overwrite: bool = False
    """Replace an older copy there, if nothing in it was added or changed since."""


def run(arguments: list[str], output: Output) -> int:
    """Draws every prompt with the same seed, or writes an edited copy of the model."""
    about = "Draws pictures with a run's delta, or writes a copy of the model that has it."
    common, guides = guiding.guides_of(arguments)
    options = parse(Apply, common, prog="efface apply", description=about)
    model = options.model or runs.recipe_of(options.source).model
    if options.in_place_copy is not None:
        return _copy(options, model, options.in_place_copy, output)
    return draw_with(options, Shown("apply", model, (options.source,), guides), output)


def _copy(options: Apply, model: str, out: Path, output: Output) -> int:
    """Copies a model's files and changes the tensors that the delta edits.

    Raises:
        BadRequest: pictures were asked for too, the model is no folder, or the place is taken.
        BadModel, BadDelta: see `efface.deltas.edited_copy.edited_copy`.
    """
    from efface.deltas.edited_copy import edited_copy

    if options.prompt or options.out is not None or options.guide:
        raise BadRequest("--in-place-copy draws nothing; leave out --prompt, --out and --guide")
    if registry.reads_pictures(model):
        raise BadRequest(
            f"{model} reads pictures; an edited copy of its folder is written by: efface export "
            f"{options.source} --as transformers --out {out}"
        )
    delta = lineage.composed(options.source)
    if Path(model).is_file():
        return _copy_file(options, Path(model), delta, out, output)
    with output.progress("copying and editing") as monitor:
        made = edited_copy(
            folder_of_model(model),
            delta,
            out,
            scale=options.scale,
            overwrite=options.overwrite,
            monitor=monitor,
        )
    gate = runs.without_gate(delta)
    output.say(
        f"wrote {made.folder}: {made.bytes / 1e6:.1f} MB, {made.tensors} tensors changed{gate}",
        *(f"left out {name}: it holds unedited weights" for name in made.left_out),
    )
    output.result({**asdict(made), "delta": delta.id})
    return 0


def _copy_file(options: Apply, file: Path, delta: Delta, out: Path, output: Output) -> int:
    """Copies a checkpoint of one file with the delta in its weights."""
    from efface.exchange.single_files import edited_single_file

    pipe = load_host(str(file), output, options)
    names = edited_single_file(
        file, delta, pipe, out, scale=options.scale, overwrite=options.overwrite
    )
    output.say(f"wrote {out}: {len(names)} tensors changed")
    output.result({"file": str(out), "tensors": len(names), "delta": delta.id})
    return 0
