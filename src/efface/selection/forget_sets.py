"""What a search finds: the set, and how every round led to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["ForgetSet", "Round", "overlap_of"]


@dataclass(frozen=True, eq=False)
class Round:
    """One time that candidates were erased and scored."""

    weights: Float[Tensor, " n"]
    """Of each candidate, after the round; their sum is the size of the set."""
    losses: Float[Tensor, " n"]
    """Of each candidate under the model of this round; NaN: not scored."""
    erased: Bool[Tensor, " n"]
    """What the lower level erased, by half of its weight or more."""
    chosen: Int[Tensor, " m"]
    """The set so far."""
    overlap: float
    """Share of the set that was in the one of the round before; 0 in the first."""
    objective: float
    """Mean loss over the set, as far as it is known."""


@dataclass(frozen=True, eq=False)
class ForgetSet:
    """The candidates that are hardest, or easiest, to forget."""

    chosen: Int[Tensor, " m"]
    """Which they are, the most extreme first."""
    losses: Float[Tensor, " n"]
    """Of each candidate, over all rounds that scored it; a low one after erasure is hard to forget.
    NaN: never scored."""
    weights: Float[Tensor, " n"]
    """Of each candidate at the end; their sum is the size of the set."""
    rounds: tuple[Round, ...]
    easiest: bool
    """Whether the easiest was asked for instead of the hardest."""
    stable: bool
    """Whether the search ended since the set no longer changed."""

    def told(self, names: Sequence[str]) -> dict[str, Any]:
        """Writes it as plain values that JSON can hold.

        Args:
            names: of all candidates.
        """
        return {
            "easiest": self.easiest,
            "stable": self.stable,
            "chosen": self.chosen.tolist(),
            "names": [names[place] for place in self.chosen.tolist()],
            "losses": _plain(self.losses),
            "weights": _plain(self.weights),
            "rounds": [
                {
                    "chosen": each.chosen.tolist(),
                    "erased": each.erased.nonzero().flatten().tolist(),
                    "losses": _plain(each.losses),
                    "overlap": each.overlap,
                    "objective": each.objective,
                }
                for each in self.rounds
            ],
        }


def overlap_of(one: Int[Tensor, " m"], other: Int[Tensor, " k"] | None) -> float:
    """Gives the share of one set that is in another; 0 for an empty set or none."""
    if other is None or not len(one):
        return 0.0
    return float(torch.isin(one, other).double().mean())


def _plain(values: Float[Tensor, " n"]) -> list[float | None]:
    """Gives values of six digits, None in place of NaN."""
    return [None if value != value else float(f"{value:.6g}") for value in values.tolist()]
