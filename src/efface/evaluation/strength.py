"""The least strength of a delta that erases enough, found by drawing no more than is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from efface.contracts import Judge, Monitor, Sample, Suite, silent
from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.drawing import draw
from efface.evaluation.samples import in_role
from efface.metrics.presence import ask
from efface.metrics.sequential import RateTest, Side
from efface.randomness import derive

if TYPE_CHECKING:
    from efface.deltas.delta import Delta

__all__ = ["MOST", "Goal", "Look", "Search", "Try", "find_strength", "strength_for"]

MOST = 2.0
"""Largest strength that is tried."""

Look: TypeAlias = Callable[[float, Sequence[Sample]], Sequence[bool]]
"""Draws samples at a strength and says in which pictures the concept is seen."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """How much may be left of what is erased, and what the search may spend.

    Raises:
        BadRequest: no share, or no strength to try.
    """

    left: float = 0.05
    """Share of the erased prompts' pictures that may still show the concept."""
    budget: int = 3
    """Strengths that are tried."""
    pictures: int = 240
    """Pictures of one strength, at most; it fails where they do not decide."""
    batch: int = 8
    error: float = 0.05
    """Chance that any strength is taken for enough which is not."""

    def __post_init__(self) -> None:
        if not 0 < self.left < 1:
            raise BadRequest(f"the goal is {self.left}; give a share between 0 and 1, such as 0.05")
        if min(self.budget, self.pictures, self.batch) < 1:
            raise BadRequest(
                f"budget is {self.budget}, pictures {self.pictures} and batch {self.batch}; give "
                "at least one of each"
            )


@dataclass(frozen=True)
class Try:
    """What one strength left."""

    strength: float
    hits: int
    count: int
    low: float
    """Of the rate; the interval holds whenever drawing stopped."""
    high: float
    side: Side | None
    """On which side of the goal it lies; None: still open when pictures ran out."""


@dataclass(frozen=True)
class Search:
    """The strengths that were tried, in turn."""

    goal: Goal
    tries: tuple[Try, ...]

    @property
    def strength(self) -> float | None:
        """The least strength that left less than the goal; None if none did."""
        return min((one.strength for one in self.tries if one.side == "below"), default=None)

    @property
    def pictures(self) -> int:
        """Counts what was drawn."""
        return sum(one.count for one in self.tries)


def find_strength(
    look: Look,
    samples: Sequence[Sample],
    goal: Goal,
    *,
    generator: torch.Generator,
    monitor: Monitor = silent,
) -> Search:
    """Looks for the least strength that is enough: what is lost grows with it.

    The whole delta comes first, then halves of what is between the strongest that was too weak (at
    first the unedited model) and the weakest that was enough; where the whole is too weak, up to
    `MOST`. Of each, prompts are drawn at random with fresh seeds until the rate is known to be on
    one side. Strengths share the chance of an error, so that all hold together.

    Args:
        look: draws and judges.
        samples: prompts of what is erased; seeds are drawn anew.
        goal: what is wanted.
        generator: of prompts and seeds.
        monitor: called after every batch with the try, the tries there may be, and what is known.

    Raises:
        BadRequest: there is no prompt.
    """
    if not samples:
        raise BadRequest("there is no prompt of what is erased, so its strength cannot be found")
    test = RateTest(goal.left, goal.error / goal.budget)
    tries: list[Try] = []
    weak, enough, strength = 0.0, MOST, 1.0
    for number in range(goal.budget):

        def seen(found: Try, turn: int = number) -> None:
            figures = {"strength": found.strength, "left": found.hits / found.count}
            monitor(turn, goal.budget, {**figures, "pictures": float(found.count)})

        tries.append(_tried(look, samples, goal, test, strength, generator, seen))
        if tries[-1].side == "below":
            enough = strength
        else:
            weak = strength
        strength = (weak + enough) / 2
    return Search(goal, tuple(tries))


def _tried(
    look: Look,
    samples: Sequence[Sample],
    goal: Goal,
    test: RateTest,
    strength: float,
    generator: torch.Generator,
    seen: Callable[[Try], None],
) -> Try:
    """Draws at one strength until it is decided."""
    hits = count = 0
    while True:
        size = min(goal.batch, goal.pictures - count)
        places = torch.randint(len(samples), (size,), generator=generator).tolist()
        seeds = torch.randint(2**31, (size,), generator=generator).tolist()
        batch = [
            replace(one, seed=seed)
            for one, seed in zip((samples[place] for place in places), seeds, strict=True)
        ]
        for shown in look(strength, batch):
            hits, count = hits + bool(shown), count + 1
            if test.decided(hits, count):
                break
        side = test.decided(hits, count)
        found = Try(strength, hits, count, *test.interval(hits, count), side)
        seen(found)
        if side or count >= goal.pictures:
            return found


def strength_for(
    pipe: Any,
    delta: Delta,
    suite: Suite,
    judge: Judge,
    goal: Goal,
    *,
    seed: int = 0,
    monitor: Monitor = silent,
) -> Search:
    """Searches with a pipeline, a suite's prompts of what is erased, and a judge.

    Args:
        pipe: without the delta; it is left as it was.
        delta: what is scaled.
        suite: prompts and sampling.
        judge: says whether what is erased is in a picture.
        goal: what is wanted.
        seed: of prompts and seeds.
        monitor: see `find_strength`.

    Raises:
        BadRequest: the suite has no prompt of what is erased.
        MeasurementFailed: pictures cannot be drawn, or the judge gives no answer.
    """

    def look(strength: float, samples: Sequence[Sample]) -> list[bool]:
        with delta.apply(pipe, scale=strength):
            drawn = draw(pipe, samples, steps=suite.steps, guidance=suite.guidance)
        pixels = torch.from_numpy(np.ascontiguousarray(drawn.pixels))
        images = pixels.permute(0, 3, 1, 2).float() / 255
        answers = ask(judge, images, [sample.concept for sample in samples])
        if bool(answers.isnan().any()):
            raise MeasurementFailed(
                f"judge {judge.card.name} gave no answer to {int(answers.isnan().sum())} of "
                f"{len(samples)} pictures, so that their share is not known; choose another judge"
            )
        return (answers >= judge.card.threshold).tolist()

    erased = in_role(suite.samples, "erased")
    generator = derive(seed, "strength")
    return find_strength(look, erased, goal, generator=generator, monitor=monitor)
