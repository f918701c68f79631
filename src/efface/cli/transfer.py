"""``efface transfer RUN``: a run's delta for a fine-tune of its base, as a run of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli.asking import Placed
from efface.cli.shell import parse
from efface.runs.recipe import TransferRecipe
from efface.workbench import making, runs
from efface.workbench.models import load_host, refuse_readers

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Transfer", "recipe_for", "run"]

ABOUT = "Lets a run's delta act on a fine-tune of its base, as it is."


@dataclass(frozen=True, kw_only=True)
class Transfer(Placed):
    """Which run, and for what."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or its run.json."""
    model: str
    """The fine-tune: a bundled model, a diffusers folder, or a hub id."""
    out: Path
    """Folder of the new run."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


def recipe_for(options: Transfer) -> TransferRecipe:
    """Writes down what is carried over, and to which model."""
    refuse_readers(options.model, "transfer")
    before = runs.open_run(options.source)
    return TransferRecipe(
        model=options.model,
        request=runs.recipe_of(before.folder).request,
        method=before.delta.provenance.method,
        run=str(before.folder),
        delta=before.delta.id,
        **options.recorded(),
    )


def run(arguments: list[str], output: Output) -> int:
    """Writes a run whose delta fits another model of the same layout; nothing is trained."""
    options = parse(Transfer, arguments, prog="efface transfer", description=ABOUT)
    recipe = recipe_for(options)
    with making.open_new_run(options.out, recipe, overwrite=options.overwrite) as folder:
        result = making.perform(recipe, load_host(options.model, output, options), output)
        making.write_run(folder, result)
    far = result.diagnostics["base_distance"]
    output.say(
        f"the weights that it changes are up to {far:.0%} from those of "
        f"{result.diagnostics['carried_from']}",
        f"wrote {options.out}; measure it with: efface evaluate {options.out}",
    )
    output.result({"run": str(options.out), "delta": result.delta.id, "base_distance": far})
    return 0
