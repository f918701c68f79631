"""Ridge edits in text space: one map P for every key and value layer, so that W' = W P.

With targets ``W t``, minimising over each layer's weight

    sum a |W' c - W t|^2  +  sum b |W' r - W r|^2  +  lam |W' - W|^2

gives ``W' = W P`` with one ``P = I + (T - C)^T A C G^-1`` and ``G = lam I + C^T A C + R^T B R``,
the same for all layers (UCE, arXiv 2308.14761, equation 7, written on the text side).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from efface.closed_form.solving import Conditioning, conditioned, factored
from efface.errors import BadRequest

__all__ = [
    "Conditioning",
    "Solution",
    "TextMap",
    "TokenPairs",
    "Weighting",
    "collapsed",
    "free_directions",
    "gram",
    "joined",
    "low_rank",
    "moment_edit",
    "ridge_edit",
    "token_factors",
]

Weighting: TypeAlias = Literal["sum", "mean"]
"""Whether a side counts by its number of tokens, as in the papers' code, or as one."""

EQUAL = 1e-9
"""Rows that differ by less than this share of the largest value count as equal."""


@dataclass(frozen=True)
class TokenPairs:
    """Token rows to move: each source row should act like its target row."""

    sources: Float[Tensor, "n dim"]
    targets: Float[Tensor, "n dim"]
    weights: Float[Tensor, " n"]

    @classmethod
    def stacked(cls, blocks: Sequence[TokenPairs]) -> TokenPairs:
        """Puts the pairs of several blocks after one another."""
        if len(blocks) == 1:
            return blocks[0]
        return cls(
            torch.cat([block.sources for block in blocks]),
            torch.cat([block.targets for block in blocks]),
            torch.cat([block.weights for block in blocks]),
        )

    def scaled(self, factor: float) -> TokenPairs:
        """Multiplies all weights by a number."""
        return TokenPairs(self.sources, self.targets, self.weights * factor)

    def reaching(self, share: float) -> TokenPairs:
        """Puts targets at a share of the way to them; above 1 is past them."""
        if share == 1.0:
            return self
        farther = self.sources + share * (self.targets - self.sources)
        return TokenPairs(self.sources, farther, self.weights)


@dataclass(frozen=True)
class TextMap:
    """The map ``P = I + left right`` on token vectors."""

    left: Float[Tensor, "dim rank"]
    right: Float[Tensor, "rank dim"]

    def matrix(self) -> Float[Tensor, "dim dim"]:
        """Writes P out."""
        return torch.eye(len(self.left), dtype=self.left.dtype) + self.left @ self.right

    def of(self, rows: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        """Maps token rows: ``P x`` for each row x."""
        return rows + (rows @ self.right.T) @ self.left.T

    def then(self, later: TextMap) -> TextMap:
        """Gives ``P Q`` for a later edit Q of the edited weights: ``W P Q``."""
        carried = later.left + self.left @ (self.right @ later.left)
        return _narrow(torch.cat([self.left, carried], dim=1), torch.cat([self.right, later.right]))

    def plus(self, other: TextMap) -> TextMap:
        """Adds another map's change of the unedited weights: ``I + (P - I) + (Q - I)``."""
        return _narrow(
            torch.cat([self.left, other.left], dim=1), torch.cat([self.right, other.right])
        )


@dataclass(frozen=True)
class Solution:
    """A solved edit."""

    map: TextMap
    conditioning: Conditioning


def gram(
    rows: Iterable[Float[Tensor, "_ dim"]], width: int, *, weight: float = 1.0
) -> Float[Tensor, "dim dim"]:
    """Adds up ``weight * X^T X`` in float64 over a stream of row blocks, however long."""
    total = torch.zeros(width, width, dtype=torch.float64)
    for block in rows:
        wide = block.to(torch.float64)
        total += wide.T @ wide
    return weight * total


def joined(blocks: Iterable[TokenPairs]) -> TokenPairs:
    """Stacks pairs of several prompts and collapses equal ones."""
    return collapsed(TokenPairs.stacked(list(blocks)))


def collapsed(pairs: TokenPairs) -> TokenPairs:
    """Merges equal pairs, such as padding rows, and adds their weights; the edit stays the same.

    Rows come out in a sorted order, so that the order of prompts cannot change a result.
    """
    both = torch.cat([pairs.sources, pairs.targets], dim=1)
    grid = (both / (EQUAL * both.abs().max().clamp(min=1e-30))).round()
    _, group = torch.unique(grid, dim=0, return_inverse=True)
    count = int(group.max()) + 1
    first = torch.full((count,), len(group)).scatter_reduce(
        0, group, torch.arange(len(group)), reduce="amin"
    )
    weights = torch.zeros(count, dtype=pairs.weights.dtype).index_add(0, group, pairs.weights)
    return TokenPairs(pairs.sources[first], pairs.targets[first], weights)


def token_factors(erased: float, kept: int, weighting: Weighting) -> tuple[float, float]:
    """Gives the factors for the erased and the kept side under a rule of weighting.

    Args:
        erased: number of rows, or their total weight.
        kept: number of rows.
        weighting: the rule.
    """
    return (1.0, 1.0) if weighting == "sum" else (1.0 / max(erased, 1.0), 1.0 / max(kept, 1))


def ridge_edit(
    pairs: TokenPairs,
    kept: Float[Tensor, "dim dim"],
    *,
    ridge: float,
    free: Float[Tensor, "dim rank"] | None = None,
) -> Solution:
    """Solves for the map that takes sources to targets and leaves the kept rows where they are.

    One Cholesky factorisation in float64, whatever the number of layers and concepts.

    Args:
        pairs: rows to move with their weights a; weight zero leaves the map the identity, exactly.
        kept: Gram matrix ``R^T B R`` of the rows to keep, from `gram`.
        ridge: lam, weight of the pull toward the unedited weights, in squared embedding norm.
        free: orthonormal directions, from `free_directions`; the change then reads nothing else,
            and whatever is orthogonal to them stays exactly.

    Raises:
        BadRequest: the system has no stable solution; raise ``ridge`` or add prompts to keep.
    """
    wide = pairs.sources.to(torch.float64)
    sources = wide if free is None else wide @ free  # (n, rank)
    kept_gram = kept if free is None else free.T @ kept @ free
    weighted = pairs.weights.to(torch.float64)[:, None] * sources
    identity = torch.eye(sources.shape[1], dtype=torch.float64)
    system = ridge * identity + sources.T @ weighted + kept_gram
    factor = factored(system, ridge)
    right = torch.cholesky_solve(sources.T, factor).T  # (n, rank): C G^-1
    conditioning = conditioned(system, factor, sources, right, ridge)
    left = (pairs.targets.to(torch.float64) - wide).T * pairs.weights.to(torch.float64)
    return Solution(_narrow(left, right if free is None else right @ free.T), conditioning)


def moment_edit(
    cross: Float[Tensor, "dim dim"],
    second: Float[Tensor, "dim dim"],
    kept: Float[Tensor, "dim dim"],
    *,
    ridge: float,
) -> Solution:
    """Solves the same from moments: no rows, so that a distribution can stand for them.

    Args:
        cross: ``T^T A C``, weighted sum of target times source.
        second: ``C^T A C``, weighted sum of source times source.
        kept: ``R^T B R``.
        ridge: see `ridge_edit`.

    Raises:
        BadRequest: see `ridge_edit`.
    """
    identity = torch.eye(len(second), dtype=torch.float64)
    system = ridge * identity + second + kept
    factor = factored(system, ridge)
    change = torch.cholesky_solve((cross - second).T, factor).T
    conditioning = conditioned(system, factor, cross - second, change, ridge)
    return Solution(TextMap(change, identity), conditioning)


def free_directions(kept: Float[Tensor, "dim dim"], *, share: float) -> Float[Tensor, "dim rank"]:
    """Gives the directions in which the kept rows hardly vary, as orthonormal columns.

    An edit that reads these alone leaves kept rows (nearly) where they are, however many concepts
    it erases: the idea of null-space constrained editing (SPEED, arXiv 2503.07392 [recalled]).

    Args:
        kept: Gram matrix of the kept rows.
        share: a direction is free when its eigenvalue is at most this share of the largest; 0 to 1.
            Rounding keeps exact zeros from being zero, so 1e-12 is as good as none.

    Raises:
        BadRequest: no direction is free; raise the share or keep less.
    """
    values, vectors = torch.linalg.eigh(kept)
    free: Tensor = vectors[:, values <= share * values[-1]]
    if free.shape[1] == 0:
        raise BadRequest(
            f"the keep set leaves no direction whose eigenvalue is at most {share:g} of the "
            "largest; raise that share or keep fewer prompts"
        )
    return free


def _narrow(left: Float[Tensor, "dim n"], right: Float[Tensor, "n dim"]) -> TextMap:
    """Writes ``I + left right`` with factors no wider than the space, without decomposing it."""
    if left.shape[1] <= left.shape[0]:
        return TextMap(left, right)
    return TextMap(left @ right, torch.eye(len(left), dtype=left.dtype))


def low_rank(left: Float[Tensor, "dim n"], right: Float[Tensor, "n dim"]) -> TextMap:
    """Writes ``I + left right`` with balanced factors of the smallest rank, by SVD.

    Singular values below 1e-14 of the largest are rounding and dropped. With more rows than
    dimensions the product is formed; otherwise the SVD is of an n x n matrix.
    """
    if left.shape[1] >= left.shape[0]:
        u, values, v = torch.linalg.svd(left @ right, full_matrices=False)
    else:
        base_left, triangle_left = torch.linalg.qr(left)
        base_right, triangle_right = torch.linalg.qr(right.T)
        u, values, v = torch.linalg.svd(triangle_left @ triangle_right.T, full_matrices=False)
        u, v = base_left @ u, v @ base_right.T
    rank = int((values > 1e-14 * values[:1].clamp(min=1e-300)).sum())
    root = values[:rank].sqrt()
    return TextMap(u[:, :rank] * root, root[:, None] * v[:rank])
