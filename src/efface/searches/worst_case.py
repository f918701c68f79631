"""Bilevel search for the set that is hardest to forget (Fan et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.contracts import Candidates, ForgetSetSearch, Monitor, Paper, silent
from efface.errors import BadRequest, require_positive
from efface.selection.projection import drawn_set, projected
from efface.selection.scoring import Scoring

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.selection.forget_sets import ForgetSet

__all__ = ["WorstCase"]


@dataclass(frozen=True, kw_only=True)
class WorstCase(ForgetSetSearch):
    """Alternates erasing by weights with moving the weights to what erasure left at a low loss.

    Minimises ``sum w_i loss_i(theta(w)) + gamma |w|^2`` over weights of 0 to 1 that add up to the
    set's size, where theta(w) is the model after erasing by w. The lower level runs on signs of
    gradients, or is closed, so theta does not depend on w to first order and the gradient is the
    losses themselves plus ``2 gamma w`` (section 4). Each step is projected exactly.

    Differs from the paper:
        ``scored="removed"`` is ours and the default: sets are drawn with the weights as chances,
        and a loss counts only while its candidate is erased. The paper counts all losses; a
        candidate that was not erased is at a low loss for that reason alone. Until each has been
        erased once, in parts of the set's size, weights stay equal.
        ``scale="deviation"``: gradients are divided by their standard deviation, so that ``step``
        means the same for every loss; with the released steps many runs return the random start.
        ``growth``: steps grow, so that weights end at 0 or 1; ``past`` averages losses over rounds;
        the search ends when the set is stable. The projection is exact instead of a bisection.
        The upper pass is without dropout, augmentation and gradients.
    """

    name: ClassVar[str] = "worst_case"
    paper: ClassVar[Paper] = Paper(
        "Challenging Forgets: Unveiling the Worst-Case Forget Sets in Machine Unlearning",
        "2403.07362",
        2024,
    )

    rounds: int = 20
    """Most erasures; those that erase each candidate once, at the start, come on top."""
    step: float = 1.0
    """Step of the weights, in standard deviations of the losses or ranks, or in losses."""
    growth: float = 2.0
    """Factor by which the step grows each round."""
    scale: Literal["deviation", "ranks", "none"] = "deviation"
    """What losses are measured in: their standard deviation, their ranks, or as they are."""
    gamma: float = 0.0
    """Weight of the squared norm, which keeps weights between 0 and 1."""
    past: float = 0.5
    """Share of a candidate's known loss that stays when it is scored again."""
    scored: Literal["removed", "all"] = "removed"
    """Whose losses count: those of what is erased just then, or everybody's as in the paper."""
    start: Literal["equal", "random"] = "equal"
    """Weights at first: all equal, or a random set."""
    warm: bool = False
    """Let the lower level go on from the last round's model."""
    stable: float = 1.0
    """Overlap of two sets in turn from which on nothing has changed."""
    patience: int = 2
    """End after so many rounds in turn without a change; 0: take all rounds."""
    easiest: bool = False
    """Find the easiest to forget instead of the hardest."""

    def __post_init__(self) -> None:
        require_positive(self, "rounds", "step", "growth")
        if not 0 <= self.past < 1:
            raise BadRequest(f"past is {self.past}; it is a share, at least 0 and below 1")
        if self.gamma < 0 or self.patience < 0:
            raise BadRequest(
                f"gamma is {self.gamma} and patience is {self.patience}; neither may be negative"
            )
        largest = self.step * max(1.0, self.growth ** (self.rounds - 1))
        if self.gamma * largest >= 1:
            raise BadRequest(
                f"gamma is {self.gamma:g} and the step grows to {largest:g}; weights swing for "
                "ever unless their product is below 1: lower growth, step or gamma"
            )

    @classmethod
    def presets(cls) -> Mapping[str, WorstCase]:
        """Gives settings that do what the released code does, on true mean losses."""
        released = {"scale": "none", "growth": 1.0, "past": 0.0, "scored": "all", "patience": 0}
        return {
            "released-data": cls(**released, step=1e3, gamma=1e-4, start="random"),  # type: ignore[arg-type]
            "released-classes": cls(**released, step=1e3, gamma=1e-4, start="random"),  # type: ignore[arg-type]
            "released-prompts": cls(**released, step=0.28, gamma=1e-4, rounds=10),  # type: ignore[arg-type]
        }

    def search(
        self,
        candidates: Candidates,
        size: int,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ForgetSet:
        """Finds the set by erasing, scoring and projecting in turn."""
        scoring = Scoring(
            candidates, size, easiest=self.easiest, past=self.past, generator=generator
        )
        weights = self._first(scoring)
        first = scoring.parts if self.scored == "removed" else 0
        total, calm = first + self.rounds, 0
        if first:
            for place, erased in enumerate(scoring.divided(first)):
                scoring.score(erased.double(), counted=erased, warm=self.warm)
                scoring.note(weights)
                monitor(place, total, scoring.figures())
            weights = self._moved(weights, scoring, self.step)
        for place in range(self.rounds):
            self._score(scoring, weights)
            weights = self._moved(weights, scoring, self.step * self.growth**place)
            scoring.note(weights)
            monitor(first + place, total, scoring.figures())
            calm = calm + 1 if scoring.rounds[-1].overlap >= self.stable else 0
            if self.patience and calm >= self.patience:
                break
        return scoring.found(stable=bool(self.patience) and calm >= self.patience)

    def _first(self, scoring: Scoring) -> Float[Tensor, " n"]:
        count = len(scoring.losses)
        equal = torch.full((count,), scoring.size / count, dtype=torch.float64)
        return equal if self.start == "equal" else _indicator(equal, scoring)

    def _score(self, scoring: Scoring, weights: Float[Tensor, " n"]) -> None:
        everyone = torch.ones(len(weights), dtype=torch.bool)
        if self.scored == "removed":
            erased = _indicator(weights, scoring)
            scoring.score(erased, counted=erased.bool(), warm=self.warm)
        elif scoring.candidates.weighs:
            scoring.score(weights, counted=everyone, warm=self.warm)
        else:
            scoring.score(_indicator(weights, scoring), counted=everyone, warm=self.warm)

    def _moved(
        self, weights: Float[Tensor, " n"], scoring: Scoring, step: float
    ) -> Float[Tensor, " n"]:
        """Takes one projected step down the gradient."""
        gradient = self._scaled(scoring.costs()) + 2 * self.gamma * weights
        return projected(weights - step * gradient, scoring.size)

    def _scaled(self, costs: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        if self.scale == "none":
            return costs
        if self.scale == "ranks":
            ranks = costs.argsort(stable=True).argsort().double()
            costs = ranks
        spread = costs.std(correction=0)
        return (costs - costs.mean()) / spread if spread > 0 else torch.zeros_like(costs)


def _indicator(weights: Float[Tensor, " n"], scoring: Scoring) -> Float[Tensor, " n"]:
    """Draws a set with weights as chances; 1 in it, 0 outside."""
    drawn = torch.zeros_like(weights)
    drawn[drawn_set(weights, scoring.draws["sets"])] = 1
    return drawn
