"""Scores every candidate under a model that never had it, and takes the extreme ones (k folds)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from efface.contracts import Candidates, ForgetSetSearch, Monitor, silent
from efface.errors import BadRequest
from efface.selection.forget_sets import ForgetSet
from efface.selection.scoring import Scoring

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

__all__ = ["Crossfit"]


@dataclass(frozen=True, kw_only=True)
class Crossfit(ForgetSetSearch):
    """Erases the candidates fold by fold and scores each while its own fold is erased.

    What `worst_case` converges to when the lower level is retraining and steps are large: the
    candidates with the lowest loss of a model that did not see them. Here they are found directly.
    Two folds whose lower level is retraining train on half of the data twice, which costs one
    retraining; k folds cost k - 1. Their models see less than the model after unlearning will, so
    losses are a little high, and for all candidates alike.
    """

    name: ClassVar[str] = "crossfit"

    folds: int = 2
    """Parts into which candidates are divided; 0: as many as make parts of the set's size."""
    repeats: int = 1
    """Divisions into folds, over whose losses the mean is taken."""
    easiest: bool = False
    """Find the easiest to forget instead of the hardest."""

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise BadRequest(
                f"folds is {self.folds}; give 2 or more, or 0 for parts of the set's size"
            )
        if self.repeats < 1:
            raise BadRequest(f"repeats is {self.repeats}; give 1 or more")

    def search(
        self,
        candidates: Candidates,
        size: int,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ForgetSet:
        """Finds the set from the mean loss of each candidate while it was erased."""
        scoring = Scoring(candidates, size, easiest=self.easiest, generator=generator)
        folds = self.folds or scoring.parts
        if folds > len(candidates):
            raise BadRequest(f"{len(candidates)} candidates make no {folds} folds; give fewer")
        total = folds * self.repeats
        for turn in range(self.repeats):
            for number, erased in enumerate(scoring.divided(folds)):
                scoring.score(erased.double(), counted=erased)
                scoring.note(_vertex(scoring))
                monitor(turn * folds + number, total, scoring.figures())
        return scoring.found(stable=False)


def _vertex(scoring: Scoring) -> Tensor:
    """Gives the weights of the set so far: 1 in it, 0 outside."""
    chosen: Bool[Tensor, " n"] = torch.zeros(len(scoring.losses), dtype=torch.bool)
    chosen[scoring.best()] = True
    return chosen.double()
