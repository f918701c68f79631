"""Batches of pictures in random order: every picture once before any comes again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from efface.errors import BadRequest, MissingInput

__all__ = ["Batches"]


class Batches:
    """Deals indices without end; all randomness is the generator's of each call.

    Passes over the pictures are shuffled anew. A batch may reach over the end of a pass, so that
    no picture is left out; of fewer pictures than a batch, all come, some more than once.

    Args:
        count: of pictures.
        size: of a batch.

    Raises:
        MissingInput: there is no picture.
        BadRequest: a batch of none.
    """

    def __init__(self, count: int, size: int) -> None:
        if count < 1:
            raise MissingInput("there is no picture to learn from; give some")
        if size < 1:
            raise BadRequest(f"batches of {size} pictures hold none; give 1 or more")
        self.count, self.size = count, size
        self._left = torch.empty(0, dtype=torch.long)

    def next(self, generator: torch.Generator) -> Int[Tensor, " size"]:
        """Deals one batch."""
        while len(self._left) < self.size:
            more = torch.randperm(self.count, generator=generator)
            self._left = torch.cat([self._left, more])
        batch, self._left = self._left[: self.size], self._left[self.size :]
        return batch

    def in_order(self) -> Iterator[Int[Tensor, " n"]]:
        """Lists every index once, in order."""
        yield from torch.arange(self.count).split(self.size)

    def steps(self, passes: float) -> int:
        """Counts the batches of so many passes over the pictures, at least one."""
        return max(1, round(passes * self.count / self.size))

    def state_dict(self) -> dict[str, Tensor]:
        """Gives what a checkpoint must hold."""
        return {"left": self._left}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Goes on where `state_dict` was taken."""
        self._left = state["left"]
