"""How a run is made: a recipe of any kind is done, and its result put into a folder of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadRequest
from efface.runs import recipe as recipes
from efface.workbench import measuring, runs
from efface.workbench.folder import RunFolder, claimed, folders_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from efface.contracts import Monitor
    from efface.deltas.delta import Delta
    from efface.deltas.results import ErasureResult
    from efface.runs.recipe import Recipe
    from efface.runs.workspace import Workspace
    from efface.workbench.telling import Telling

__all__ = ["open_new_run", "perform", "write_run"]


def perform(
    recipe: Recipe,
    pipe: Any,
    output: Telling,
    *,
    watch: Callable[[Monitor], Monitor] | None = None,
    workspace: Workspace | None = None,
) -> ErasureResult:
    """Does what a recipe of any kind says, behind a progress bar.

    Args:
        recipe: everything that decides the delta.
        pipe: the model.
        output: where progress is shown.
        watch: wraps the bar's monitor, to look on at every step.
        workspace: folders of an erasure.

    Raises:
        BadRequest: the recipe does not hold all that is needed to repeat it.
    """
    from efface.runs import erasing
    from efface.training.session import Session

    with output.progress(_title(recipe)) as bar:
        monitor = Session(bar if watch is None else watch(bar), bar.before)
        if isinstance(recipe, recipes.EraseRecipe | recipes.StagesRecipe):
            return erasing.perform(recipe, pipe, workspace=workspace, monitor=monitor)
        if isinstance(recipe, recipes.LedgerRecipe):
            from efface.ledger.solve import repeat

            return repeat(recipe, pipe, monitor=monitor)
        if isinstance(recipe, recipes.DebiasRecipe):
            return _debiased(recipe, pipe, monitor)
        if isinstance(recipe, recipes.ImportRecipe):
            return _imported(recipe, pipe)
        if isinstance(recipe, recipes.RevokeRecipe):
            return _revoked(recipe, pipe)
        assert isinstance(recipe, recipes.TransferRecipe)
        return _transferred(recipe, pipe)


def _title(recipe: Recipe) -> str:
    if isinstance(recipe, recipes.LedgerRecipe):
        return f"erasing {len(recipe.entries)} entries"
    titles = {"debias": "drawing and moving", "import": "reading", "transfer": "carrying over"}
    titles["revoke"] = "taking out"
    return titles.get(recipe.kind, f"erasing with {recipe.method}")


def _debiased(recipe: recipes.DebiasRecipe, pipe: Any, monitor: Monitor) -> ErasureResult:
    import efface
    from efface.runs.checks import stamped

    folder = None if recipe.judge_folder is None else Path(recipe.judge_folder)
    judge = measuring.judge_for(recipe.judge, folder)
    method = efface.Debias(**recipe.settings)
    result = efface.debias(pipe, recipe.request, method, judge, seed=recipe.seed, monitor=monitor)
    return stamped(result, recipe)


def _imported(recipe: recipes.ImportRecipe, pipe: Any) -> ErasureResult:
    from efface.deltas.recording import wrapped
    from efface.exchange.imports import import_delta
    from efface.runs.checks import finish

    began = time.perf_counter()
    how: dict[str, Any] = {
        "part": recipe.part,
        "gate": recipe.gate,
        "unconditional": recipe.unconditional,
    }
    made = import_delta(recipe.file, pipe, recipe.request, **how)
    facts = {
        "layout": made.layout,
        "unused": list(made.unused),
        "opens_for": list(made.opens_for),
        "notes": list(made.notes),
    }
    return finish(pipe, wrapped(pipe, made.delta, since=began), recipe, **facts)


def _transferred(recipe: recipes.TransferRecipe, pipe: Any) -> ErasureResult:
    from efface.deltas.recording import wrapped
    from efface.runs.checks import finish
    from efface.runs.transfer import distance, transferred

    if not recipe.run:
        raise BadRequest(
            "the record of this run does not say which run it was transferred from, which efface "
            "now writes; transfer it again: efface transfer RUN"
        )
    began = time.perf_counter()
    before = runs.open_run(Path(recipe.run)).delta
    if before.id != recipe.delta:
        raise BadRequest(
            f"{recipe.run} holds delta {before.id} by now, and {recipe.delta} was transferred; "
            "transfer it again: efface transfer RUN"
        )
    facts = {
        "base_distance": distance(before, pipe),
        "carried_from": before.provenance.base_model,
    }
    made = wrapped(pipe, transferred(before, pipe), since=began)
    return finish(pipe, made, recipe, **facts)


def _revoked(recipe: recipes.RevokeRecipe, pipe: Any) -> ErasureResult:
    from efface.deltas.composition import without
    from efface.deltas.recording import wrapped
    from efface.runs.checks import finish
    from efface.workbench import lineage

    began = time.perf_counter()
    last = runs.open_run(Path(recipe.run))
    deltas = lineage.whole(last)
    if last.delta.id != recipe.delta or all(one.id != recipe.revoked for one in deltas):
        raise BadRequest(
            f"{recipe.run} holds {last.delta.id} by now, and {recipe.revoked} was taken out of "
            f"{recipe.delta}; revoke again: efface revoke"
        )
    left = _repeated(last, recipe, pipe) if recipe.repeat else without(deltas, recipe.revoked)
    facts = {"revoked": recipe.revoked}
    return finish(pipe, wrapped(pipe, left, since=began), recipe, **facts)


def _repeated(last: runs.Run, recipe: recipes.RevokeRecipe, pipe: Any) -> Delta:
    """Makes the requests after the revoked one again, in turn, and gives one delta of all."""
    from efface.deltas.composition import compose
    from efface.runs import erasing
    from efface.workbench import lineage

    order = (*lineage.beneath(runs.recipe_of(last.folder), beside=last.folder), last)
    place = [run.delta.id for run in order].index(recipe.revoked)
    made = [run.delta for run in order[:place]]
    with ExitStack() as applied:
        for delta in made:
            applied.enter_context(delta.apply(pipe))
        for run in order[place + 1 :]:
            own = runs.recipe_of(run.folder)
            if not isinstance(own, recipes.EraseRecipe | recipes.StagesRecipe):
                raise BadRequest(
                    f"{run.folder} is a run of kind {own.kind}, which is not made again here; "
                    "revoke without --repeat"
                )
            made.append(erasing.perform(own, pipe).delta)
            applied.enter_context(made[-1].apply(pipe))
    return compose(made)


@contextmanager
def open_new_run(
    out: Path, recipe: Recipe, *, overwrite: bool, reads: Iterable[Path] = ()
) -> Iterator[RunFolder]:
    """Takes a folder for a new run; open it before a model is loaded.

    Args:
        out: the folder.
        recipe: of the run; what it reads is not written to.
        overwrite: whether a run that is there may be replaced.
        reads: further folders that are read.

    Raises:
        BadRequest: see `efface.workbench.folder.check_free`; or another process writes there.
    """
    protected = [*folders_of(recipe.model), *map(Path, recipe.reads()), *reads]
    with claimed(out, overwrite=overwrite, protected=protected) as folder:
        yield folder


def write_run(folder: RunFolder, result: ErasureResult) -> None:
    """Puts a result into a run's folder, in the place of an older run with all that it held."""
    with folder.staged() as staging:
        result.save(staging)
