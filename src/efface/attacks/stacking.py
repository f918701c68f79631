"""Harmless changes put on top of the edited model: another LoRA, another erasure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from efface.contracts import Access, Attack
from efface.deltas.patches import DensePatch, Patch, scaled
from efface.errors import require_positive
from efface.hosts.components import find
from efface.revival.relearning import learning, other_lesson
from efface.revival.trials import drawn_with
from efface.training.relearning import Relearning

if TYPE_CHECKING:
    import torch

    from efface.contracts import Attempts
    from efface.deltas.delta import Delta
    from efface.revival.target import Target

__all__ = ["Stacking"]


@dataclass(frozen=True, kw_only=True)
class Stacking(Attack):
    """Puts on what users put on: a LoRA that others trained on the base, and other erasures.

    The LoRA is trained here, on the unedited model and pictures of unrelated things, and is then
    put on the edited one at several scales. Other erasures are those that the attacker knows; of
    gated ones only what has no gate, since their gates stay shut for this concept, and nothing of
    maps of rows, which stand beside the weights. Averaging with
    the base is `gradient_reversal` with a share between 0 and 1.
    """

    name: ClassVar[str] = "stacking"
    access: ClassVar[Access] = "weights"
    needs_name: ClassVar[bool] = True
    learns_once: ClassVar[bool] = True

    scales: tuple[float, ...] = (0.5, 1.0, 1.5)
    """Scales of the LoRA, one after the other; none leaves it out."""
    role: str = "attention"
    """Which layers it has, see `efface.hosts.roles.ROLES`."""
    rank: int = 4
    """Its rank."""
    steps: int = 50
    """Steps that it was trained."""
    learning_rate: float = 3e-3
    """Step size of Adam."""
    batch: int = 4
    """Noised pictures per step."""
    pictures: int = 8
    """Pictures that it was trained on."""

    def __post_init__(self) -> None:
        require_positive(self, "rank", "steps", "pictures")
        self._settings()

    def _settings(self) -> Relearning:
        return Relearning(
            role=self.role,
            rank=self.rank,
            steps=self.steps,
            learning_rate=self.learning_rate,
            batch=self.batch,
        )

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Draws each open trial with one thing on top after the other."""
        return drawn_with(target, self._changes(target, generator))

    def _changes(self, target: Target, generator: torch.Generator) -> Iterator[Mapping[str, Any]]:
        """Gives patches, what they cost, and what they are: free ones first."""
        for delta in target.knowledge.deltas:
            if patches := _written_out(target, delta):
                yield {
                    "added": patches,
                    "note": f"with another erasure ({delta.provenance.method})",
                }
        if not self.scales:
            return
        lesson = other_lesson(target, self.pictures, near=False)
        course = learning(
            target, lesson, self._settings(), (self.steps,), generator=generator, unedited=True
        )
        (learnt,) = course
        for place, scale in enumerate(self.scales):
            patches = {key: scaled(patch, scale) for key, patch in learnt.patches.items()}
            yield {
                "added": patches,
                "spent": 0 if place else learnt.spent,
                "note": f"with an unrelated LoRA at scale {scale:g}",
            }


def _written_out(target: Target, delta: Delta) -> dict[str, Patch]:
    """Writes another erasure as what it adds to each weight of the base."""
    held = delta.patches if delta.gate is None else delta.ungated
    found: dict[str, Patch] = {}
    model: Any = target.model
    with target.unedited():
        for key, patch in held.items():
            for name, weight in find(model, key).items():
                change = patch.on(weight.detach())
                before = found.get(name)
                if isinstance(before, DensePatch):
                    change = change + before.difference
                found[name] = DensePatch(change)
    return found
