"""Rounds of ridge edits that weigh prompts anew: many concepts share one map of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.closed_form.text_space import Solution, TextMap, TokenPairs, ridge_edit

__all__ = ["Erased", "Kept", "Rounds", "balanced_edit"]

LARGEST_STEP = 0.5
"""A round changes the logarithm of a weight by at most this."""


@dataclass(frozen=True)
class Erased:
    """The rows to move, of prompts that are told apart."""

    pairs: TokenPairs
    prompts: Int[Tensor, " n"]
    """The prompt of each row, counted from 0."""

    @classmethod
    def of(cls, blocks: Sequence[TokenPairs]) -> Erased:
        """Stacks one block a prompt."""
        return cls(TokenPairs.stacked(blocks), _numbered([len(block.weights) for block in blocks]))

    def nearness(self, edit: TextMap, seen: Float[Tensor, "_ dim"]) -> Float[Tensor, " prompts"]:
        """Gives the distance of every mapped prompt from itself over that from its target.

        0 is not moved, 1 halfway, infinity there, as is a prompt that is its own target.

        Args:
            edit: the map.
            seen: the factor F; distances are between ``F x``.
        """
        mapped = edit.of(self.pairs.sources)
        moved = _lengths((mapped - self.pairs.sources) @ seen.T, self.prompts)
        missing = _lengths((mapped - self.pairs.targets) @ seen.T, self.prompts)
        way = _lengths(self.pairs.sources - self.pairs.targets, self.prompts)
        return torch.where(way > 0, moved / missing, torch.inf)


@dataclass(frozen=True)
class Kept:
    """The rows to hold, of prompts that are told apart."""

    rows: Float[Tensor, "n dim"]
    prompts: Int[Tensor, " n"]
    """The prompt of each row, counted from 0."""
    concepts: Int[Tensor, " prompts"]
    """The concept of each prompt."""
    weight: float = 1.0
    """Of a row."""

    @classmethod
    def of(cls, blocks: Sequence[tuple[int, Float[Tensor, "_ dim"]]]) -> Kept:
        """Stacks one block a prompt, each with the number of its concept."""
        rows = torch.cat([rows for _, rows in blocks]).to(torch.float64)
        concepts = torch.tensor([concept for concept, _ in blocks])
        return cls(rows, _numbered([len(rows) for _, rows in blocks]), concepts)

    def apart(self, seen: Float[Tensor, "_ dim"]) -> Float[Tensor, " prompts"]:
        """Gives the distance of every prompt from the nearest one of another concept.

        Rows are compared place by place, which tells concepts in equal wordings apart. Without
        another concept it is the prompt's own length.
        """
        counts = torch.bincount(self.prompts)
        places = torch.arange(len(self.rows)) - (counts.cumsum(0) - counts)[self.prompts]
        wide = torch.zeros(len(counts), int(counts.max()), self.rows.shape[1])
        wide[self.prompts, places] = (self.rows @ seen.T).to(wide.dtype)
        flat = wide.flatten(1)
        between = torch.cdist(flat, flat)
        between[self.concepts[:, None] == self.concepts] = float("inf")
        nearest = between.min(dim=1).values.to(torch.float64)
        own = _lengths(self.rows @ seen.T, self.prompts)
        return torch.where(nearest.isfinite() & (nearest > 0), nearest, own)


@dataclass(frozen=True)
class Rounds:
    """How often prompts are weighed anew, and what is asked of them."""

    count: int
    """How often the weights change, and solves beside the first."""
    reach: float = 1.0
    """Share of the way from sources to targets that is asked for; 1 is all of it."""
    enough: float = 1.3
    """An erased prompt that is so many times farther from its source than from its target keeps its
    weight; one that is nearer gains."""


def balanced_edit(
    erased: Erased,
    kept: Kept,
    seen: Float[Tensor, "_ dim"],
    rounds: Rounds,
    *,
    ridge: float,
    free: Float[Tensor, "dim rank"] | None = None,
) -> Solution:
    """Solves a ridge edit again and again, until every prompt is erased enough and none too much.

    Whether a concept is still seen is decided by which of two pictures its prompt is nearer to, and
    a squared error does not know that: it is paid as much for moving a prompt that is long gone as
    for one that is not, and for nudging one kept prompt as for taking another half the way to its
    neighbour. Multiplicative weights take from the first and give to the second, on both sides. The
    sum of the kept ones stays, so that little is erased with little force and much with more. Ours.

    Args:
        erased: what moves, with a weight a row.
        kept: what is held, with the weight of a row.
        seen: F such that ``F x`` is what the network makes of a row; distances are between those.
        rounds: how often, and how far prompts are to move.
        ridge: see `ridge_edit`.
        free: see `ridge_edit`.

    Raises:
        BadRequest: see `ridge_edit`.
    """
    aimed = erased.pairs.reaching(rounds.reach)
    apart = kept.apart(seen)
    moving = torch.ones(int(erased.prompts.max()) + 1, dtype=torch.float64)
    holding = torch.ones(len(apart), dtype=torch.float64)
    each = torch.full((len(kept.rows),), kept.weight, dtype=torch.float64)
    for number in range(rounds.count + 1):
        weights = aimed.weights * moving[erased.prompts]
        kept_weights = _shared(each, holding[kept.prompts])
        gram = kept.rows.T @ (kept_weights[:, None] * kept.rows)
        pairs = TokenPairs(aimed.sources, aimed.targets, weights)
        solution = ridge_edit(pairs, gram, ridge=ridge, free=free)
        if number < rounds.count:
            near = erased.nearness(solution.map, seen)
            moving = moving * _step(1.0 - near / rounds.enough)
            moved = (solution.map.of(kept.rows) - kept.rows) @ seen.T
            share = _lengths(moved, kept.prompts) / apart
            usual = share.square().mean().sqrt().clamp(min=1e-300)
            holding = holding * _step(share / usual - 1.0)
    return solution


def _step(logarithms: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return logarithms.clamp(-LARGEST_STEP, LARGEST_STEP).exp()


def _shared(weights: Float[Tensor, " n"], factors: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Multiplies weights so that their sum stays."""
    raised = weights * factors
    return raised * (weights.sum() / raised.sum().clamp(min=1e-300))


def _lengths(rows: Float[Tensor, "n dim"], prompts: Int[Tensor, " n"]) -> Float[Tensor, " prompts"]:
    """Gives the length of the rows of each prompt, as one vector."""
    total = torch.zeros(int(prompts.max()) + 1, dtype=torch.float64)
    return total.index_add(0, prompts, rows.square().sum(dim=1).to(torch.float64)).sqrt()


def _numbered(counts: Sequence[int]) -> Int[Tensor, " n"]:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
