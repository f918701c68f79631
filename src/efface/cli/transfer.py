"""``efface transfer RUN``: a run's delta for a fine-tune of its base, as a run of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli import runs
from efface.cli.folder import claimed, folders_of
from efface.cli.hosts import load_host
from efface.cli.shell import Shared, parse

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Transfer", "run"]


@dataclass(frozen=True, kw_only=True)
class Transfer(Shared):
    """Which run, and for what."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or its run.json."""
    model: str
    """The fine-tune: a bundled model, a diffusers folder, or a hub id."""
    out: Path
    """Folder of the new run."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


def run(arguments: list[str], output: Output) -> int:
    """Writes a run whose delta fits another model of the same layout; nothing is trained."""
    about = "Lets a run's delta act on a fine-tune of its base, as it is."
    options = parse(Transfer, arguments, prog="efface transfer", description=about)
    before = runs.open_run(options.source)
    recipe = runs.recipe_of(before.folder)
    from efface.deltas.recording import peak_bytes
    from efface.deltas.results import ErasureResult
    from efface.runs.checks import inspect
    from efface.runs.transfer import distance, transferred

    protected = [before.folder, *folders_of(options.model)]
    with claimed(options.out, overwrite=options.overwrite, protected=protected) as folder:
        pipe = load_host(options.model, output)
        began = time.perf_counter()
        delta = transferred(before.delta, pipe)
        far = distance(before.delta, pipe)
        result = ErasureResult(
            delta=delta,
            seconds=time.perf_counter() - began,
            peak_bytes=peak_bytes(pipe),
            diagnostics=inspect(pipe, delta, recipe.request),
        )
        with folder.staged() as staging:
            result.save(staging)
            runs.extend_record(staging, replace(recipe, model=options.model))
    base = before.delta.provenance.base_model
    output.say(
        f"the weights that it changes are up to {far:.0%} from those of {base}",
        f"wrote {options.out}; measure it with: efface evaluate {options.out}",
    )
    output.result({"run": str(options.out), "delta": delta.id, "base_distance": far})
    return 0
