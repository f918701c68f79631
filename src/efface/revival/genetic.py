"""Genetic search of tokens in which the best is never lost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["GeneticSearch"]


class GeneticSearch:
    """A population of token sequences of one trial, best first.

    Args:
        free: tokens that may be chosen.
        count: tokens per sequence.
        size: sequences, at least 4.
        losses: what is lowered; asked once per sequence, since it never changes.
        generator: of all draws.
    """

    def __init__(
        self,
        free: Int[Tensor, " allowed"],
        count: int,
        size: int,
        losses: Callable[[Int[Tensor, "n count"]], Float[Tensor, " n"]],
        *,
        generator: torch.Generator,
    ) -> None:
        self._free, self._losses, self._generator = free, losses, generator
        self.population = free[torch.randint(len(free), (size, count), generator=generator)]
        self.losses = losses(self.population).cpu()
        self._sort()

    def step(self, *, mutation: float) -> None:
        """Replaces the worse half by children of the better one, which stays as it is.

        Children are crossed at one point and changed in one token with a probability.

        Args:
            mutation: that probability, 0 to 1.
        """
        size, count = self.population.shape
        kept = size - size // 2
        born = size // 2
        first, second = (
            self.population[torch.randint(kept, (born,), generator=self._generator)]
            for _ in range(2)
        )
        cut = torch.randint(count + 1, (born, 1), generator=self._generator)
        children = torch.where(torch.arange(count) < cut, first, second)
        changed = torch.rand(born, generator=self._generator) < mutation
        places = torch.randint(count, (born,), generator=self._generator)
        drawn = self._free[torch.randint(len(self._free), (born,), generator=self._generator)]
        index = changed.nonzero().flatten()
        children[index, places[index]] = drawn[index]
        self.population = torch.cat([self.population[:kept], children])
        self.losses = torch.cat([self.losses[:kept], self._losses(children).cpu()])
        self._sort()

    def _sort(self) -> None:
        order = self.losses.argsort(stable=True)
        self.population, self.losses = self.population[order], self.losses[order]
