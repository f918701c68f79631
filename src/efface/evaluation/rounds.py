"""The rounds of debiasing: solve, draw, count, move the weights; the nearest round is taken."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from efface.concepts import Concept, ErasureRequest, wordings
from efface.contracts import Judge, Monitor, Sample
from efface.deltas.delta import Delta
from efface.deltas.recording import Recording
from efface.errors import NothingChanged
from efface.evaluation.tallies import Tally, tally
from efface.randomness import split
from efface.text.balancing import Balance, distance, next_weights
from efface.text.branch_edits import BranchEdit, edit_branches
from efface.text.branches import TextBranch, text_branches

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.deltas.results import ErasureResult
    from efface.evaluation.debias import Debias

__all__ = ["Rounds", "Watch"]


@dataclass(frozen=True)
class _Round:
    weights: Float[Tensor, " k"]
    delta: Delta | None
    """None for the unedited model."""
    found: Tally
    distance: float


@dataclass(frozen=True)
class Watch:
    """What every picture's seed comes from, and who hears of each round."""

    generator: torch.Generator
    monitor: Monitor


class Rounds:
    """The rounds of one run: what was solved, drawn and counted in each."""

    def __init__(
        self, model: Any, wanted: ErasureRequest, method: Debias, judge: Judge, watch: Watch
    ) -> None:
        self._model, self._wanted, self._method, self._judge = model, wanted, method, judge
        self._watch = watch
        self._recording = Recording(
            model, generator=watch.generator, monitor=watch.monitor, steps=method.rounds + 1
        )
        self._branches = text_branches(model)
        concept = wanted.erasures[0].concept
        keep = (*wanted.keep, _described(concept, method.attributes))
        self._balances = {
            each.key: Balance.of(each, concept, method.attributes, keep, tokens=method.tokens)
            for each in self._branches
        }
        self._seeds = split(watch.generator, "pictures")["pictures"]
        self._rounds: list[_Round] = []

    def run(self) -> _Round:
        """Draws and moves until the shares are there or the rounds are over; gives the best."""
        wanted = self._method.wanted()
        weights = torch.zeros_like(wanted)
        for _ in range(self._method.rounds + 1):
            made = self._drawn(weights)
            self._rounds.append(made)
            if self._reached(made):
                break
            weights = next_weights(
                weights, wanted=wanted, found=made.found.shares(), step=self._method.step
            )
        return self._best()

    def _drawn(self, weights: Float[Tensor, " k"]) -> _Round:
        """Draws the concept with the edit of these weights and counts."""
        delta = self._delta(weights) if self._rounds else None
        with nullcontext() if delta is None else delta.apply(self._model):
            found = tally(
                self._model,
                self._samples(),
                self._judge,
                self._method.concepts(),
                steps=self._method.steps,
                guidance=self._method.guidance,
            )
        far = distance(self._method.wanted(), found.shares())
        named = dict(zip(self._method.attributes, found.shares().tolist(), strict=True))
        presence = found.presence()
        seen = {} if presence is None else {"presence": presence}
        self._recording.step({"distance": far, **seen, **named})
        return _Round(weights, delta, found, far)

    def _samples(self) -> list[Sample]:
        """Turns through the concept's wordings, with seeds that no round before has used."""
        concept = self._wanted.erasures[0].concept
        texts = wordings(concept)
        first = int(torch.randint(2**40, (1,), generator=self._seeds))
        return [
            Sample(texts[place % len(texts)], first + place, "general", concept)
            for place in range(self._method.pictures)
        ]

    def _delta(self, weights: Float[Tensor, " k"]) -> Delta:
        settings = self._method

        def solve(branch: TextBranch) -> BranchEdit:
            solution = self._balances[branch.key].edit(
                weights,
                keep_scale=settings.keep_scale,
                ridge=settings.ridge,
                weighting=settings.weighting,
            )
            return BranchEdit(solution, [{}])

        patches = edit_branches(self._branches, solve).patches
        made = self._recording.result(settings, self._wanted, patches, diagnostics={})
        return made.delta

    def _reached(self, made: _Round) -> bool:
        gaps = (self._method.wanted() - made.found.shares()).abs()
        return float(gaps.max()) < self._method.tolerance and self._kept_concept(made)

    def _kept_concept(self, made: _Round) -> bool:
        """Says whether enough pictures still show the concept; unknown counts as yes."""
        before, now = self._rounds[0].found.present, made.found.present
        return before is None or now is None or now >= self._method.least_presence * before

    def _best(self) -> _Round:
        """Takes the round nearest to the wanted shares that still shows the concept."""
        start, *later = self._rounds
        if not later:
            raise NothingChanged(
                f"every share of '{self._wanted.erasures[0].concept.name}' is within "
                f"{self._method.tolerance:g} of the wanted one already (distance "
                f"{start.distance:.2f}); nothing to debias, or lower the tolerance"
            )
        usable = [made for made in later if self._kept_concept(made)]
        best = min(usable, key=lambda made: made.distance, default=None)
        if best is None or best.distance >= start.distance:
            why = "came nearer to the wanted shares" if usable else "still shows the concept"
            raise NothingChanged(
                f"none of {len(later)} rounds {why} (distance {start.distance:.2f} before); "
                "give another step, more pictures or more rounds"
            )
        return best

    def result(self, taken: _Round) -> ErasureResult:
        """Wraps the round that was taken up with all of them."""
        assert taken.delta is not None
        told = {
            "taken": next(n for n, made in enumerate(self._rounds) if made is taken),
            "weights": [made.weights.tolist() for made in self._rounds],
            "tallies": [asdict(made.found) for made in self._rounds],
            "reached": self._reached(taken),
            "judge": f"{self._judge.card.name}@{self._judge.card.version}",
        }
        patches = taken.delta.patches
        return self._recording.result(self._method, self._wanted, patches, diagnostics=told)


def _described(concept: Concept, attributes: Sequence[str]) -> Concept:
    """Prompts that ask for an attribute: they are kept, so that they give what they gave."""
    texts = tuple(f"{each} {concept.name}" for each in attributes)
    return Concept(name=f"{concept.name} with attributes", prompts=texts)
