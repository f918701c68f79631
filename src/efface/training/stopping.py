"""Rules that end training early, and a record of which one did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["StopRule", "StopRules"]


@dataclass(frozen=True)
class StopRule:
    """A figure and the limit from which on it ends training."""

    name: str
    figure: Callable[[], float]
    """Measures it on the weights as they are."""
    limit: float
    says: str
    """What the figure is, for people; ``{}`` is its value."""


class StopRules:
    """Ends training by the first rule whose figure reaches its limit; see `train`'s ``stop``.

    Args:
        rules: in the order in which they are asked.
        every: how many steps lie between two looks.
    """

    def __init__(self, rules: Sequence[StopRule], *, every: int = 1) -> None:
        self._rules, self._every = tuple(rules), every
        self._fired: tuple[StopRule, float, int] | None = None

    def __call__(self, step: int) -> bool:
        """Says whether a rule fires after so many steps."""
        if step % self._every:
            return False
        for rule in self._rules:
            if (figure := rule.figure()) >= rule.limit:
                self._fired = rule, figure, step
                return True
        return False

    @property
    def or_none(self) -> StopRules | None:
        """Gives itself where there is a rule to ask."""
        return self if self._rules else None

    def told(self, steps: int) -> dict[str, str | int | float]:
        """Says which rule ended training.

        Args:
            steps: how many there were to be.
        """
        if self._fired is None:
            return {"rule": "steps", "step": steps, "says": f"all {steps} steps were done"}
        rule, figure, step = self._fired
        says = f"after {step} of {steps} steps {rule.says.format(f'{figure:.3g}')}"
        return {
            "rule": rule.name,
            "step": step,
            "figure": figure,
            "limit": rule.limit,
            "says": f"{says} (the limit is {rule.limit:g})",
        }
