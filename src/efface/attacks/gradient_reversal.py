"""The erasure taken back by degrees, along its own change of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from efface.contracts import Access, Attack
from efface.errors import BadRequest
from efface.revival.changes import left_standing, touched
from efface.revival.trials import drawn_with

if TYPE_CHECKING:
    import torch

    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["GradientReversal"]


@dataclass(frozen=True, kw_only=True)
class GradientReversal(Attack):
    """Steps along minus the erasure: what whoever has both models, or a published delta, can do.

    It needs no pictures and no training. With nothing left of the erasure the concept is back for
    certain; what counts is how much of it may still stand, which the note of each trial says. A
    share between 0 and 1 is also the average of the edited model and its base, as people merge
    checkpoints.

    Gated layers are tried without their gate. On the unedited model there is nothing to take back,
    so that its self-test says that prompts, model and judge work, and no more.
    """

    name: ClassVar[str] = "gradient_reversal"
    access: ClassVar[Access] = "weights"
    needs_name: ClassVar[bool] = True

    shares: tuple[float, ...] = (0.75, 0.5, 0.25, 0.0, -0.5)
    """How much of the erasure is left, one after the other; below 0 it is reversed."""

    def __post_init__(self) -> None:
        if not self.shares:
            raise BadRequest("shares is empty; give at least one, such as 0.5")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:  # noqa: ARG002
        """Draws each prompt once with each share of the erasure."""
        return drawn_with(target, self._changes(target))

    def _changes(self, target: Target) -> Iterator[Mapping[str, Any]]:
        """Gives what is changed, one thing after the other."""
        weights = touched(target)
        for share in self.shares:
            change = left_standing(target, weights, dict.fromkeys(weights, share))
            yield {
                "without": change.without,
                "added": change.added,
                "note": f"with {share:g} of the erasure",
            }
