"""One solve for all entries of a ledger, from stored rows or from what a run's recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

from efface.closed_form.edit_report import stored
from efface.concepts import ErasureRequest
from efface.contracts import Monitor, silent
from efface.deltas.patches import Patch
from efface.deltas.recording import Recording
from efface.deltas.results import ErasureResult
from efface.errors import BadRequest
from efface.ledger.rows import Rows, Rules, encoded, kept_of, stacked
from efface.methods.uce import Uce
from efface.runs.checks import finish
from efface.runs.recipe import LedgerRecipe
from efface.text.branches import check_family, text_branches

__all__ = ["repeat", "solve"]


def solve(
    model: Any,
    recipe: LedgerRecipe,
    rows: Sequence[tuple[Path, Rows, float]],
    *,
    keep_folder: Path | None = None,
    monitor: Monitor = silent,
) -> ErasureResult:
    """Solves for the delta of all entries; the model stays as it was.

    Args:
        model: the base.
        recipe: request and settings.
        rows: a name, the rows and the weight of each entry, in the order of their ids.
        keep_folder: remembers the keep set.
        monitor: told of the one step.

    Raises:
        BadRequest: an entry has no rows for this family.
        NothingChanged, ModelCollapsed: see `efface.erase`.
    """
    method = cast("Uce", recipe.build())
    check_family(model, method)
    generator = torch.Generator().manual_seed(recipe.seed)
    recording = Recording(model, generator=generator, monitor=monitor, steps=1)
    patches: dict[str, Patch] = {}
    figures: dict[str, dict[str, Any]] = {}
    for branch in text_branches(model):
        kept = kept_of(branch, recipe.request.keep, Rules.of(method), keep_folder)
        solution, moved = method.solve(stacked(branch.key, rows), kept)
        patch = branch.patch(stored(solution.map, branch.weights))
        patches[branch.key] = patch
        figures[branch.key] = asdict(solution.conditioning) | moved | {"rank": patch.rank}
    first, *others = patches
    recording.step({name: figures[first][name] for name in ("residual", "interference")})
    diagnostics = figures[first] | {key: figures[key] for key in others}
    diagnostics |= {"entries": len(rows)}
    result = recording.result(method, recipe.request, patches, diagnostics=diagnostics)
    return finish(model, result, recipe)


def repeat(recipe: LedgerRecipe, model: Any, *, monitor: Monitor = silent) -> ErasureResult:
    """Encodes what a recipe's entries erase and solves again, without the ledger.

    Raises:
        BadRequest: the record was written before entries and their weights were part of it.
    """
    if not recipe.entries:
        raise BadRequest(
            "the record of this run does not hold the weights of its ledger's entries, which "
            "efface now writes; solve the ledger again: efface ledger erase"
        )
    rules = Rules.of(cast("Uce", recipe.build()))
    rows = []
    for entry in recipe.entries:
        erasures = tuple(recipe.request.erasures[place] for place in entry.erasures)
        own = encoded(model, ErasureRequest(erasures=erasures), rules)
        rows.append((Path(entry.id), own, entry.weight))
    return solve(model, recipe, rows, monitor=monitor)
