"""Rounds of ridge edits in which rows that hardly moved get more weight: many concepts, one map."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from efface.core.text_space import Solution, TextMap, TokenPairs, ridge_edit

__all__ = ["balanced_edit", "nearness", "reweighted"]

ENOUGH = 1.5
"""A row that is this many times farther from its source than from its target keeps its weight."""
LARGEST_STEP = 0.5
"""A round changes the logarithm of a weight by at most this."""


def balanced_edit(
    pairs: TokenPairs,
    kept: Float[Tensor, "dim dim"],
    *,
    ridge: float,
    free: Float[Tensor, "dim rank"] | None = None,
    rounds: int,
    reach: float,
) -> Solution:
    """Solves a ridge edit again and again, until what is left is shared out among the rows.

    Whether a concept is still seen is decided by which of two pictures its rows are nearer to, and
    a squared error does not know that: it is paid as much for moving a row that is long gone as
    for one that is not. Multiplicative weights take from the first and give to the second. Ours.

    Args:
        pairs: see `ridge_edit`.
        kept: see `ridge_edit`.
        ridge: see `ridge_edit`.
        free: see `ridge_edit`.
        rounds: how often the weights change, and solves beside the first; 0 is `ridge_edit`.
        reach: share of the way from sources to targets that is asked for; 1 is all of it.

    Raises:
        BadRequest: see `ridge_edit`.
    """
    weighted = pairs
    solution = ridge_edit(_reaching(weighted, reach), kept, ridge=ridge, free=free)
    for _ in range(rounds):
        weighted = reweighted(weighted, solution.map)
        solution = ridge_edit(_reaching(weighted, reach), kept, ridge=ridge, free=free)
    return solution


def reweighted(pairs: TokenPairs, edit: TextMap) -> TokenPairs:
    """Moves weight from rows that an edit has brought over to those that it has not.

    Their sum stays, so that the kept side counts as much as before.
    """
    step = (1.0 - nearness(pairs, edit) / ENOUGH).clamp(-LARGEST_STEP, LARGEST_STEP)
    raised = pairs.weights * step.exp()
    total = raised.sum().clamp(min=1e-300)
    return TokenPairs(pairs.sources, pairs.targets, raised * (pairs.weights.sum() / total))


def nearness(pairs: TokenPairs, edit: TextMap) -> Float[Tensor, " n"]:
    """Gives the distance of every mapped row from its source over that from its target.

    0 is not moved, 1 halfway, infinity there. A row that is its own target is where it should be,
    which counts as `ENOUGH`.
    """
    mapped = edit.of(pairs.sources)
    moved = torch.linalg.vector_norm(mapped - pairs.sources, dim=1)
    missing = torch.linalg.vector_norm(mapped - pairs.targets, dim=1)
    apart = (pairs.sources != pairs.targets).any(dim=1)
    return torch.where(apart, moved / missing, ENOUGH)


def _reaching(pairs: TokenPairs, reach: float) -> TokenPairs:
    """Puts targets at a share of the way to them."""
    if reach == 1.0:
        return pairs
    way = pairs.targets - pairs.sources
    return TokenPairs(pairs.sources, pairs.sources + reach * way, pairs.weights)
