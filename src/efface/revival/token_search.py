"""Searches of tokens: exact gradients of one-hot rows, candidates, and the nearest tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["GreedySearch", "Losses", "candidates", "nearest", "row_gradients"]

Losses: TypeAlias = Callable[[list[int], Float[Tensor, "n k dim"]], Float[Tensor, " n"]]
"""Gives the loss of embeddings, each of the trial of its number; trials may repeat. Gradients are
asked for where the embeddings require them."""


def row_gradients(
    table: Float[Tensor, "vocabulary dim"],
    tokens: Int[Tensor, "n k"],
    losses: Callable[[Float[Tensor, "n k dim"]], Float[Tensor, " n"]],
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n k vocabulary"]]:
    """Gives losses, and their gradients by the one-hot rows that choose tokens.

    Embeddings are ``rows @ table``, so the gradient by rows is ``gradient @ table^T``, exactly;
    one-hot rows are never written out.

    Args:
        table: embeddings of all tokens.
        tokens: those chosen, one row a trial.
        losses: of embeddings, one a trial that depends on its own embeddings alone.
    """
    chosen = table[tokens.to(table.device)].clone().requires_grad_()
    with torch.enable_grad():
        found = losses(chosen)
        (gradient,) = torch.autograd.grad(found.sum(), chosen)
    return found.detach(), gradient @ table.T


def candidates(
    gradient: Float[Tensor, "n k vocabulary"],
    tokens: Int[Tensor, "n k"],
    allowed: Bool[Tensor, " vocabulary"],
    *,
    top: int,
    count: int,
    generators: Sequence[torch.Generator],
) -> Int[Tensor, "n count k"]:
    """Proposes changes of one token each, among those whose gradient promises most.

    Args:
        gradient: by one-hot rows, from `row_gradients`.
        tokens: as they are now.
        allowed: tokens that may be chosen.
        top: how many of the best tokens each position draws from.
        count: candidates per trial.
        generators: one per trial.
    """
    barred = ~allowed.to(gradient.device)
    # A token in place of itself is no change.
    own = tokens.to(gradient.device)[:, :, None]
    open_rows = gradient.masked_fill(barred, torch.inf).scatter(2, own, torch.inf)
    best = open_rows.topk(min(top, int(allowed.sum()) - 1), dim=2, largest=False).indices.cpu()
    proposed = tokens.cpu()[:, None].repeat(1, count, 1)
    for trial, generator in enumerate(generators):
        positions = torch.randint(tokens.shape[1], (count,), generator=generator)
        ranks = torch.randint(best.shape[2], (count,), generator=generator)
        proposed[trial, torch.arange(count), positions] = best[trial, positions, ranks]
    return proposed


def nearest(
    table: Float[Tensor, "vocabulary dim"],
    rows: Float[Tensor, "*rows dim"],
    allowed: Bool[Tensor, " vocabulary"],
) -> Int[Tensor, "*rows"]:
    """Finds the allowed token whose embedding has the greatest cosine with each row."""
    directions = torch.nn.functional.normalize(table, dim=-1)
    cosines = rows.to(table) @ directions.T
    found: Tensor = cosines.masked_fill(~allowed.to(table.device), -torch.inf).argmax(dim=-1)
    return found.cpu()


class GreedySearch:
    """Tokens of several trials under greedy coordinate search, and the best of each so far.

    Args:
        table: embeddings of all tokens.
        allowed: tokens that may be chosen.
        count: tokens per trial; they start by chance.
        losses: what is lowered; the same tokens must give the same loss in every step.
        generators: one per trial.
    """

    def __init__(
        self,
        table: Float[Tensor, "vocabulary dim"],
        allowed: Bool[Tensor, " vocabulary"],
        count: int,
        losses: Losses,
        *,
        generators: Sequence[torch.Generator],
    ) -> None:
        self._table, self._allowed, self._losses = table, allowed, losses
        self._generators = generators
        free = allowed.nonzero().flatten()
        starts = [torch.randint(len(free), (count,), generator=one) for one in generators]
        self.tokens: Int[Tensor, "trials k"] = free[torch.stack(starts)]
        """Where each trial is."""
        self.best: Int[Tensor, "trials k"] = self.tokens.clone()
        """The tokens of each trial's lowest loss."""
        self.lowest: Float[Tensor, " trials"] = torch.full((len(generators),), torch.inf)

    def step(self, trials: Sequence[int], *, top: int, count: int) -> None:
        """Asks for one gradient and for all candidates, and goes on with the best of these.

        Costs ``1 + count`` losses per trial.
        """
        some = list(trials)
        here, gradient = row_gradients(
            self._table, self.tokens[some], lambda rows: self._losses(some, rows)
        )
        self._remember(some, self.tokens[some], here)
        proposed = candidates(
            gradient,
            self.tokens[some],
            self._allowed,
            top=top,
            count=count,
            generators=[self._generators[trial] for trial in some],
        )
        repeated = [trial for trial in some for _ in range(count)]
        with torch.no_grad():
            tried = self._losses(repeated, self._table[proposed.flatten(0, 1)])
        lowest, place = tried.cpu().unflatten(0, (-1, count)).min(dim=1)
        self.tokens[some] = proposed[torch.arange(len(some)), place]
        self._remember(some, self.tokens[some], lowest)

    def _remember(self, trials: list[int], tokens: Tensor, losses: Tensor) -> None:
        found = losses.cpu().to(self.lowest)
        better = found < self.lowest[trials]
        self.best[trials] = torch.where(better[:, None], tokens, self.best[trials])
        self.lowest[trials] = torch.minimum(found, self.lowest[trials])
