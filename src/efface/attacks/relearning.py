"""Relearning: the edited model trained on a few pictures, and how many steps bring it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from efface.contracts import Access, Attack
from efface.errors import require_positive
from efface.revival.relearning import check_marks, concept_lesson, learning, other_lesson
from efface.revival.trials import drawn_with
from efface.training.relearning import Relearning as Settings

if TYPE_CHECKING:
    import torch

    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["Relearning"]


@dataclass(frozen=True, kw_only=True)
class Relearning(Attack):
    """Trains the edited denoiser on pictures, and draws each prompt at marks on the way.

    Pictures of the concept say how many steps bring it back; pictures of its neighbours or of
    unrelated things, whether an innocent fine-tune does. What is learnt serves all trials.

    On the unedited model there is nothing to relearn: its self-test says that training does not
    wreck the drawing, and no more.
    """

    name: ClassVar[str] = "relearning"
    access: ClassVar[Access] = "weights"
    needs_name: ClassVar[bool] = True
    learns_once: ClassVar[bool] = True

    data: Literal["concept", "neighbours", "unrelated"] = "concept"
    """What the pictures show; neighbours and unrelated things are known by prompts of others."""
    role: str = "attention"
    """Which layers learn, see `efface.hosts.roles.ROLES`."""
    rank: int = 4
    """Rank of the layers that are trained beside them (LoRA); 0 trains the weights themselves."""
    learning_rate: float = 3e-3
    """Step size of Adam."""
    batch: int = 4
    """Noised pictures per step."""
    pictures: int = 8
    """Pictures that are learnt from."""
    marks: tuple[int, ...] = (5, 10, 20, 50, 100)
    """Steps after which prompts are drawn."""

    def __post_init__(self) -> None:
        require_positive(self, "pictures")
        check_marks(self.marks)
        self._settings()

    def _settings(self) -> Settings:
        return Settings(
            role=self.role,
            rank=self.rank,
            steps=self.marks[-1],
            learning_rate=self.learning_rate,
            batch=self.batch,
        )

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Trains to each mark and draws the open trials with what was learnt."""
        return drawn_with(target, self._changes(target, generator))

    def _changes(self, target: Target, generator: torch.Generator) -> Iterator[Mapping[str, Any]]:
        """Gives what is changed, one thing after the other."""
        if self.data == "concept":
            lesson = concept_lesson(target, self.pictures)
        else:
            lesson = other_lesson(target, self.pictures, near=self.data == "neighbours")
        course = learning(target, lesson, self._settings(), self.marks, generator=generator)
        for learnt in course:
            yield {
                "spent": learnt.spent,
                "added": learnt.patches,
                "note": f"{learnt.step} steps on {self.pictures} pictures ({self.data})",
            }
