"""One edit for every branch that reads text: the loop of all closed forms, and what it measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from efface.closed_form.edit_report import residual, stored
from efface.closed_form.text_space import Solution, TextMap, TokenPairs
from efface.deltas.patches import Patch
from efface.text.branches import TextBranch
from efface.text.keep_sets import KeepSet

__all__ = ["BranchEdit", "TextEdit", "edit_branches", "movement"]


@dataclass(frozen=True)
class BranchEdit:
    """What a closed form found for one branch."""

    solution: Solution
    curve: Sequence[Mapping[str, float]]
    """Figures after every solve, such as those of `movement`; the last are of the edit itself."""


@dataclass(frozen=True)
class TextEdit:
    """The edits of all branches."""

    patches: dict[str, Patch]
    curve: Sequence[Mapping[str, float]]
    """Of the first branch, which reads tokens."""
    diagnostics: dict[str, Any]
    """Last figures and conditioning of the first branch; those of others under their keys."""


def edit_branches(
    branches: Sequence[TextBranch], solve: Callable[[TextBranch], BranchEdit | None]
) -> TextEdit:
    """Solves for every branch and writes the maps as patches.

    Args:
        branches: at least one.
        solve: gives a branch's edit, or None where it has no row to move.
    """
    patches: dict[str, Patch] = {}
    curves: list[Sequence[Mapping[str, float]]] = []
    figures: dict[str, dict[str, Any]] = {}
    for branch in branches:
        if (edit := solve(branch)) is None:
            continue
        patch = branch.patch(stored(edit.solution.map, branch.weights))
        patches[branch.key] = patch
        curves.append(edit.curve)
        conditioning = asdict(edit.solution.conditioning)
        figures[branch.key] = conditioning | dict(edit.curve[-1]) | {"rank": patch.rank}
    if not patches:
        return TextEdit({}, (), {})
    first, *others = figures
    diagnostics = figures[first] | {key: figures[key] for key in others}
    return TextEdit(patches, curves[0], diagnostics)


def movement(edit: TextMap, pairs: TokenPairs, kept: KeepSet) -> dict[str, float]:
    """Measures what is left of the way to the targets, and how far kept rows move."""
    return {"residual": residual(edit, pairs), "interference": kept.interference(edit)}
