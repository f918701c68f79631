"""Is a rate below a target? Tested while pictures are drawn, valid whenever one stops looking."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from scipy.optimize import brentq
from scipy.special import betaln

from efface.errors import BadRequest

__all__ = ["RateTest", "Side"]

Side: TypeAlias = Literal["below", "above"]


@dataclass(frozen=True)
class RateTest:
    """Decides on which side of a target a rate lies, from independent draws, one after another.

    Two mixture martingales (H. Robbins, Annals of Mathematical Statistics 41 (1970) 1397-1409): of
    beta-binomial likelihoods over the likelihood under a rate. The chance that one ever passes
    1/``error`` where the rate is on the other side is at most ``error`` (Ville), so looking after
    every picture costs nothing, where a fixed interval looked at again and again would not hold.

    Raises:
        BadRequest: a target or an error outside 0 to 1.
    """

    target: float
    error: float = 0.05
    """Chance of deciding wrongly, of each side."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < 1:
                raise BadRequest(f"{name} is {value}; it is a share between 0 and 1, both excluded")

    def decided(self, hits: int, count: int) -> Side | None:
        """Says on which side the rate lies; None while that is open."""
        limit = -math.log(self.error)
        if count and hits / count < self.target and self._below(hits, count, self.target) >= limit:
            return "below"
        if count and hits / count > self.target and self._above(hits, count, self.target) >= limit:
            return "above"
        return None

    def interval(self, hits: int, count: int) -> tuple[float, float]:
        """Gives the rates that are not ruled out; each end holds with the chance of ``error``."""
        if not count:
            return 0.0, 1.0
        limit, share, end = -math.log(self.error), hits / count, 1e-12
        low, high = 0.0, 1.0
        if hits and self._above(hits, count, end) >= limit:
            low = brentq(lambda p: self._above(hits, count, p) - limit, end, share - end)
        if hits < count and self._below(hits, count, 1 - end) >= limit:
            high = brentq(lambda p: self._below(hits, count, p) - limit, share + end, 1 - end)
        return float(low), float(high)

    def _below(self, hits: int, count: int, rate: float) -> float:
        """Log evidence against a rate or more: a mixture around half of the target."""
        return _evidence(hits, count, rate, (0.5, 1 / self.target - 0.5))

    @staticmethod
    def _above(hits: int, count: int, rate: float) -> float:
        """Log evidence against a rate or less: a uniform mixture."""
        return _evidence(hits, count, rate, (1.0, 1.0))


def _evidence(hits: int, count: int, rate: float, prior: tuple[float, float]) -> float:
    """Gives the log of a beta-binomial likelihood over that of a rate."""
    first, second = prior
    mixed = betaln(first + hits, second + count - hits) - betaln(first, second)
    return float(mixed - hits * math.log(rate) - (count - hits) * math.log1p(-rate))
