"""One solve for all entries of a ledger, from stored rows or from what a run's recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from efface.concepts import ErasureRequest
from efface.contracts import Monitor, silent
from efface.deltas.recording import Recording
from efface.deltas.results import ErasureResult
from efface.errors import BadRequest
from efface.hosts.families import layout
from efface.ledger.rows import Rows, Rules, encoded, kept_of, stacked
from efface.methods.uce import Uce
from efface.runs.checks import check_family, finish
from efface.runs.recipe import LedgerRecipe
from efface.text.branch_edits import BranchEdit, edit_branches
from efface.text.branches import TextBranch, text_branches
from efface.text.token_rules import worded_by

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
    check_family(method.name, method.families, layout(model))
    generator = torch.Generator().manual_seed(recipe.seed)
    recording = Recording(model, generator=generator, monitor=monitor, steps=1)
    keep = worded_by(recipe.request, method.wordings).keep

    def edit_of(branch: TextBranch) -> BranchEdit:
        kept = kept_of(branch, keep, Rules.of(method), keep_folder)
        return method.solve(stacked(branch.key, rows), kept)

    edit = edit_branches(text_branches(model), edit_of)
    recording.step(edit.curve[0])
    diagnostics = edit.diagnostics | {"entries": len(rows)}
    result = recording.result(method, recipe.request, edit.patches, diagnostics=diagnostics)
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
