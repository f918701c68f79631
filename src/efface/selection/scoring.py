"""Losses of candidates over rounds, the set that they say, and a record of every round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from efface.contracts import Candidates
from efface.errors import MeasurementFailed
from efface.randomness import split
from efface.selection.forget_sets import ForgetSet, Round, overlap_of
from efface.selection.projection import check_size, smallest

__all__ = ["Scoring"]


class Scoring:
    """Erases, scores and remembers for a search.

    Args:
        candidates: of which a set is sought.
        size: of the set.
        easiest: whether high losses are wanted instead of low ones.
        past: share of a known loss that stays when a candidate is scored again; None: every score
            counts alike.
        generator: of all draws.

    Raises:
        BadRequest: the size is none that a set of these candidates can have.
    """

    def __init__(
        self,
        candidates: Candidates,
        size: int,
        *,
        easiest: bool,
        past: float | None = None,
        generator: torch.Generator,
    ) -> None:
        check_size(size, len(candidates))
        self.candidates, self.size, self.easiest, self.past = candidates, size, easiest, past
        self.draws = split(generator, "sets", "erasing")
        self.losses = torch.full((len(candidates),), torch.nan, dtype=torch.float64)
        """Of each candidate, over the rounds so far; NaN: not scored yet."""
        self.rounds: list[Round] = []
        self._times = torch.zeros(len(candidates))
        self._last: tuple[Tensor, Tensor] | None = None
        self._state: Any = None

    @property
    def parts(self) -> int:
        """Counts the parts of the set's size that all candidates make, the last perhaps smaller."""
        return max(1, -(-len(self.candidates) // max(1, self.size)))

    def divided(self, parts: int) -> Iterator[Bool[Tensor, " n"]]:
        """Divides the candidates at random into parts whose sizes differ by one at most."""
        order = torch.randperm(len(self.candidates), generator=self.draws["sets"])
        for some in order.tensor_split(parts):
            chosen = torch.zeros(len(order), dtype=torch.bool)
            chosen[some] = True
            yield chosen

    def score(
        self,
        weights: Float[Tensor, " n"],
        *,
        counted: Bool[Tensor, " n"],
        warm: bool = False,
    ) -> None:
        """Erases by weights and takes the losses.

        Args:
            weights: how much each candidate is erased.
            counted: whose losses count.
            warm: whether to go on from the last round's model.

        Raises:
            MeasurementFailed: a loss is not finite.
        """
        start, draws = self._state if warm else None, self.draws["erasing"]
        with self.candidates.erased(weights, generator=draws, start=start) as state:
            losses = self.candidates.losses().double().cpu()
        self._state = state if warm else None
        if bad := (~losses.isfinite() & counted).nonzero().flatten().tolist():
            raise MeasurementFailed(
                f"the loss of '{self.candidates.names[bad[0]]}' is {losses[bad[0]]:g} after "
                "erasing; the erasure broke the model: take a weaker one"
            )
        self._average(losses, counted)
        self._last = (losses.where(counted, torch.nan), weights >= 0.5)

    def _average(self, losses: Float[Tensor, " n"], counted: Bool[Tensor, " n"]) -> None:
        past = self._times / (self._times + 1) if self.past is None else self.past
        known = self.losses.isfinite()
        mixed = past * self.losses + (1 - past) * losses
        fresh = torch.where(known, mixed, losses)
        self.losses = torch.where(counted, fresh, self.losses)
        self._times += counted

    def costs(self) -> Float[Tensor, " n"]:
        """Gives what the wanted candidates have little of; those never scored count as the mean."""
        known = self.losses.isfinite()
        filled = self.losses.where(known, self.losses[known].mean())
        return -filled if self.easiest else filled

    def best(self, weights: Float[Tensor, " n"] | None = None) -> Int[Tensor, " m"]:
        """Lists the set, the most extreme first.

        Args:
            weights: of each candidate, of which the largest are taken; None: by their losses.
        """
        costs = self.costs()
        if weights is None:
            return smallest(costs, self.size)
        inside = torch.zeros(len(weights), dtype=torch.bool)
        by_cost = costs.argsort(stable=True)  # Decides between equal weights.
        inside[by_cost[smallest(-weights[by_cost], self.size)]] = True
        return by_cost[inside[by_cost]]

    def note(self, weights: Float[Tensor, " n"]) -> None:
        """Writes a round down."""
        assert self._last is not None
        losses, erased = self._last
        chosen = self.best(weights)
        before = self.rounds[-1].chosen if self.rounds else None
        known = self.losses[chosen]
        self.rounds.append(
            Round(
                weights=weights,
                losses=losses,
                erased=erased,
                chosen=chosen,
                overlap=overlap_of(chosen, before),
                objective=float(known[known.isfinite()].mean()),
            )
        )

    def figures(self) -> dict[str, float]:
        """Gives what a monitor is told."""
        last = self.rounds[-1]
        return {"loss of the set": last.objective, "overlap": last.overlap}

    def found(self, *, stable: bool) -> ForgetSet:
        """Gives the result."""
        last = self.rounds[-1]
        return ForgetSet(
            chosen=last.chosen,
            losses=self.losses,
            weights=last.weights,
            rounds=tuple(self.rounds),
            easiest=self.easiest,
            stable=stable,
        )
