"""``efface revoke RUN --of LAST``: requests made on top of one another, without one of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli import debias
from efface.cli.asking import Placed
from efface.cli.shell import parse
from efface.concepts import request_from
from efface.errors import BadRequest
from efface.evaluation.limits import Limits
from efface.runs.recipe import RevokeRecipe
from efface.workbench import lineage, making, measuring, recognising, runs
from efface.workbench.models import load_host

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Revoke", "recipe_for", "run"]

ABOUT = "Takes one request out of several that were made on top of one another."


@dataclass(frozen=True, kw_only=True)
class Revoke(Limits, Placed):
    """Which request, of which."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run of the request that is taken out."""
    of: Path
    """Run of the last request, which stands on it."""
    out: Path
    """Folder of the new run: one delta of all the other requests."""
    repeat: bool = False
    """Make the later requests again without it, each with its own settings and seed. They were made
    with it in force, so that as they are they may hold less."""
    evaluate: bool = True
    """Measure the result, where a suite for this model exists."""
    size: str = "standard"
    """How many pictures to measure with; see efface evaluate."""
    test_data: str | None = None
    """Held-out pictures to measure with, for models that read pictures; by default a bundled
    model's own."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


def recipe_for(options: Revoke) -> RevokeRecipe:
    """Writes down what is taken out of what.

    Raises:
        BadRequest: the run is not among the requests, or is the only one.
        BadDelta: a later request depends on it.
    """
    from efface.deltas.composition import joined_requests, without

    last, revoked = runs.open_run(options.of), runs.open_run(options.source)
    deltas = lineage.whole(last)
    if all(delta.id != revoked.delta.id for delta in deltas):
        raise BadRequest(
            f"{options.source} is not beneath {options.of}, so there is nothing to take out; name "
            "one of the runs that it was made on top of"
        )
    wanted = [one for one in deltas if one.id != revoked.delta.id]
    if wanted and all(one.provenance.method == debias.METHOD for one in wanted):
        raise BadRequest(
            f"what is left without {options.source} was debiased and erases nothing; use the run "
            f"beneath it: {runs.recipe_of(last.folder).after}"
        )
    if len(deltas) == 1:
        raise BadRequest(f"{options.of} stands on no other request; use the model without it")
    if options.repeat:
        asked = request_from(joined_requests([one.provenance.request for one in wanted]))
    else:
        asked = request_from(without(deltas, revoked.delta.id).provenance.request)
    return RevokeRecipe(
        model=runs.recipe_of(last.folder).model,
        request=asked,
        run=str(last.folder),
        delta=last.delta.id,
        revoked_run=str(revoked.folder),
        revoked=revoked.delta.id,
        repeat=options.repeat,
        **options.recorded(),
    )


def run(arguments: list[str], output: Output) -> int:
    """Writes a run of the other requests and measures whether they still hold."""
    options = parse(Revoke, arguments, prog="efface revoke", description=ABOUT)
    recipe = recipe_for(options)
    recognising.check_flags(recipe.model, options)
    plan = measuring.Plan(
        size=options.size, limits=measuring.limits_of(options), test_data=options.test_data
    )
    reason = measuring.unmeasurable(recipe, plan) if options.evaluate else "not measured"
    looks = options.evaluate and measuring.looks(recipe, plan)
    with making.open_new_run(options.out, recipe, overwrite=options.overwrite) as folder:
        pipe = load_host(recipe.model, output, options)
        result = making.perform(recipe, pipe, output)
        making.write_run(folder, result)
        output.say(f"took {recipe.revoked} out; what is left: {options.out / runs.DELTA}")
        if reason is None or looks:
            return measuring.measure(folder, pipe, plan, output)
    if not options.repeat and recipe.revoked == recipe.delta:
        output.say(reason or "not measured")
    elif not options.repeat:
        output.say(
            f"{reason}; the requests that are left were made with it in force and may hold less "
            "without it: measure, or make them again with --repeat"
        )
    output.result({"run": str(options.out), "delta": result.delta.id, "verdict": None})
    return 0
