"""``efface debias``: gives a concept's attributes the shares that are wanted."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface import registry
from efface.cli.asking import Placed
from efface.cli.shell import Repeated, parse
from efface.concepts import ConceptKind, request
from efface.errors import BadRequest
from efface.runs.recipe import DebiasRecipe
from efface.workbench import making, measuring, runs
from efface.workbench.models import BUNDLED, is_bundled, load_host, refuse_readers

if TYPE_CHECKING:
    from efface.cli.output import Output
    from efface.deltas.results import ErasureResult
    from efface.runs.recipe import Recipe

__all__ = ["METHOD", "Debias", "read_flags", "recipe_for", "refuse_debiased", "run"]

METHOD = "debias"
"""What a run's record has as its method."""


@dataclass(frozen=True, kw_only=True)
class Debias(Placed):
    """What to debias, in which model, and who counts."""

    concept: str
    """What is drawn too often in one way, such as "cat"; its prompts name no attribute."""
    out: Path
    """Folder of the run: the delta, and run.json with the shares of every round."""
    model: str = BUNDLED
    """The bundled model, a diffusers folder, or a hub id."""
    kind: ConceptKind = "object"
    """What the concept is."""
    keep: Repeated = ()
    """What must stay; repeat for several. The bundled model has a default set."""
    judge: str | None = None
    """Who tells attributes apart; by default "emoji" for the bundled model."""
    judge_folder: Path | None = None
    """Model of a judge that is not bundled."""
    seed: int = 0
    """Seed of every picture."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


def run(arguments: list[str], output: Output) -> int:
    """Draws, counts and moves; saves the round that came nearest."""
    from efface.evaluation.debias import require_attributes

    options, settings = read_flags(arguments)
    refuse_readers(options.model, "debias")
    recipe = recipe_for(options, settings)
    folder = None if recipe.judge_folder is None else Path(recipe.judge_folder)
    require_attributes(settings, measuring.judge_for(recipe.judge, folder))
    with making.open_new_run(options.out, recipe, overwrite=options.overwrite) as new:
        result = making.perform(recipe, load_host(options.model, output, options), output)
        making.write_run(new, result)
    _tell(options.out, result, settings, output)
    return 0


def recipe_for(options: Any, settings: Any) -> DebiasRecipe:
    """Writes down what decides the delta.

    Raises:
        BadRequest: nobody tells the attributes apart.
    """
    return DebiasRecipe(
        model=options.model,
        request=request(options.concept, keep=options.keep, kind=options.kind),
        seed=options.seed,
        **_judge_of(options),
        settings={each.name: getattr(settings, each.name) for each in fields(settings)},
        **options.recorded(),
    )


def read_flags(arguments: list[str]) -> tuple[Any, Any]:
    """Reads the verb's flags and the settings; those of the bundled model have their own defaults.

    Raises:
        BadRequest: an unknown flag, or a value out of range.
    """
    from efface.evaluation import debias as rounds

    early = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--model", nargs="?", default=BUNDLED)
    model = early.parse_known_args(arguments)[0].model
    found = rounds.Debias
    both: type[Any] = make_dataclass(
        "DebiasSettings",
        [("method", found, field(default=found.presets().get(model, found())))],
        bases=(Debias,),
        frozen=True,
        kw_only=True,
    )
    about = "Draws a concept, counts its attributes and moves it until each has its share."
    options = parse(both, arguments, prog="efface debias", description=about)
    return options, options.method


def _judge_of(options: Any) -> dict[str, Any]:
    """Names the judge; only the bundled model has one that goes with it.

    Raises:
        BadRequest: another model without a judge.
    """
    if options.judge is None and not is_bundled(options.model):
        raise BadRequest(
            "somebody must tell the attributes apart: give --judge zero_shot --judge-folder FOLDER "
            "with a CLIP model, or another judge; see: efface list judges"
        )
    folder = options.judge_folder
    name = options.judge or registry.bundled(options.model).JUDGE
    return {"judge": name, "judge_folder": None if folder is None else str(folder)}


def _tell(out: Path, result: ErasureResult, settings: Any, output: Output) -> None:
    taken = result.diagnostics["taken"]
    rows = {name: curve for name, curve in result.curves.items() if name != "distance"}
    output.say(
        f"took round {taken} of {len(result.curves['distance']) - 1} "
        f"({result.seconds:.0f} s): {out / runs.DELTA}"
    )
    width = max(map(len, rows))
    output.say(*(f"  {n:<{width}}  {c[0]:6.1%} -> {c[taken]:6.1%}" for n, c in rows.items()))
    before, after = (result.curves["distance"][n] for n in (0, taken))
    output.say(f"distance to the wanted shares {before:.3f} -> {after:.3f}, each of one round's")
    if not result.diagnostics["reached"]:
        output.say(
            f"some share is still {settings.tolerance:g} or more off; more --rounds, more "
            "--pictures or another --step may come nearer"
        )
    output.result(
        {
            "run": str(out),
            "delta": result.delta.id,
            "taken": taken,
            "reached": result.diagnostics["reached"],
            "curves": {name: list(curve) for name, curve in result.curves.items()},
        }
    )


def refuse_debiased(recipe: Recipe, source: Path) -> None:
    """Refuses a run in which nothing was to be erased, where that would be looked for.

    Raises:
        BadRequest: saying what there is instead.
    """
    if recipe.method == METHOD:
        raise BadRequest(
            f"{source} was debiased, so nothing in it was to be erased; run.json has the shares of "
            "every round, and efface generate --delta draws with it"
        )
