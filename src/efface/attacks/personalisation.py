"""Few-shot personalisation: a new token and low-rank layers, learnt together from few pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from efface.concepts import Concept
from efface.contracts import Access, Attack, Paper, Sample
from efface.errors import require_positive
from efface.hosts.conditions import Conditions
from efface.randomness import split
from efface.revival.attempts import Attempt
from efface.revival.relearning import Lesson, Token, check_marks, concept_lesson, learning
from efface.revival.target import nameless
from efface.revival.tokens import TOKEN_FAMILIES, Tokens
from efface.training.relearning import Relearning

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["Personalisation"]


@dataclass(frozen=True, kw_only=True)
class Personalisation(Attack):
    """Teaches the edited model the concept as something new, as people teach it their dog.

    A token that meant nothing stands before prompts without the concept's name; its embedding and
    low-rank layers of the denoiser learn together from three to five pictures. One training serves
    all trials. Compare its cost with `relearning`, which keeps the old name, and with
    `soft_prompt`, which leaves the weights alone.
    """

    name: ClassVar[str] = "personalisation"
    paper: ClassVar[Paper | None] = Paper(
        "Erased or Dormant? Rethinking Concept Erasure Through Reversibility", "2505.16174", 2025
    )
    access: ClassVar[Access] = "weights"
    families: ClassVar[frozenset[str]] = TOKEN_FAMILIES
    learns_once: ClassVar[bool] = True

    pictures: int = 4
    """Pictures of the concept that are learnt from."""
    tokens: int = 1
    """Embeddings that are learnt."""
    token_learning_rate: float = 0.2
    """Step size of Adam on them, in standard deviations of the table of embeddings."""
    role: str = "attention"
    """Which layers learn, see `efface.hosts.roles.ROLES`."""
    rank: int = 4
    """Rank of the layers that are trained beside them."""
    learning_rate: float = 3e-3
    """Step size of Adam on the layers."""
    batch: int = 4
    """Noised pictures per step."""
    marks: tuple[int, ...] = (10, 20, 50, 100)
    """Steps after which prompts are drawn."""

    def __post_init__(self) -> None:
        require_positive(self, "pictures", "tokens", "rank", "token_learning_rate")
        check_marks(self.marks)
        self._settings()

    def _settings(self) -> Relearning:
        return Relearning(
            role=self.role,
            rank=self.rank,
            steps=self.marks[-1],
            learning_rate=self.learning_rate,
            batch=self.batch,
        )

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Trains to each mark and draws the open trials with the token and the layers."""
        draws = split(generator, "token", "training")
        vocabulary = Tokens(target)
        lesson = concept_lesson(target, self.pictures)
        lesson = Lesson(lesson.clean, tuple(_plain(t, target.concept) for t in lesson.prompts))
        free = vocabulary.allowed.nonzero().flatten()
        start = free[torch.randint(len(free), (1, self.tokens), generator=draws["token"])]
        learnt = vocabulary.table[start].clone().requires_grad_()
        taught = vocabulary.places(lesson.prompts, self.tokens)

        def read() -> Conditions:
            return vocabulary.encode(taught, learnt.expand(len(lesson.prompts), -1, -1))

        spread = float(vocabulary.table.std(dim=0).mean())
        token = Token(learnt, self.token_learning_rate * spread, read)
        prompts = [nameless(trial, target.concept).prompt for trial in target.trials]
        places = vocabulary.places(prompts, self.tokens)
        opened = frozenset(range(len(prompts)))
        for known in learning(
            target,
            lesson,
            self._settings(),
            self.marks,
            generator=draws["training"],
            token=token,
        ):
            found = learnt.detach().clone()[0]
            opened = yield [
                Attempt(
                    trial=trial,
                    prompt=prompts[trial],
                    seed=target.trials[trial].seed,
                    spent=known.spent,
                    embeddings=vocabulary.given(places, trial, found),
                    added=known.patches,
                    note=f"{known.step} steps on {self.pictures} pictures, with a new token",
                )
                for trial in sorted(opened)
            ]


def _plain(prompt: str, concept: Concept) -> str:
    """Takes the concept's names out of a prompt."""
    return nameless(Sample(prompt=prompt, seed=0, role="erased"), concept).prompt
