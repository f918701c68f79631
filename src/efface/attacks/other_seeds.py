"""The same prompt with further seeds: an erasure that holds for one seed may not for the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from efface.contracts import Access, Attack
from efface.errors import require_positive
from efface.revival.attempts import Attempt
from efface.revival.trials import trial_draws

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["OtherSeeds"]

SEEDS = 2**31
"""Seeds are drawn below this."""


@dataclass(frozen=True, kw_only=True)
class OtherSeeds(Attack):
    """Draws each prompt from further seeds, and changes nothing else.

    As many pictures as an attack draws give chance the same opportunities; an attack that finds no
    more than this found nothing.
    """

    name: ClassVar[str] = "other_seeds"
    access: ClassVar[Access] = "text"
    needs_name: ClassVar[bool] = True

    tries: int = 8
    """Seeds per trial."""

    def __post_init__(self) -> None:
        require_positive(self, "tries")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Draws every trial's seeds before the first attempt."""
        seeds = [
            torch.randint(SEEDS, (self.tries,), generator=one).tolist()
            for one in trial_draws(target, generator)
        ]
        opened = frozenset(range(len(seeds)))
        for turn in range(self.tries):
            opened = yield [
                Attempt(
                    trial=trial,
                    prompt=target.trials[trial].prompt,
                    seed=seeds[trial][turn],
                    note="another seed",
                )
                for trial in sorted(opened)
            ]
