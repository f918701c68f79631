"""Prompts whose encoding is that of the concept, found without the edited model (Ring-A-Bell)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.concepts import Concept, wordings
from efface.contracts import Access, Attack, Paper, Sample
from efface.errors import require_positive
from efface.revival.genetic import GeneticSearch
from efface.revival.target import named, nameless, renamed
from efface.revival.token_search import GreedySearch
from efface.revival.tokens import TOKEN_FAMILIES, Places, Tokens
from efface.revival.trials import Course, trial_draws

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["RingABell", "concept_vector"]


@dataclass(frozen=True, kw_only=True)
class RingABell(Attack):
    """Searches tokens that the unedited text encoder reads as the prompt plus the concept.

    The concept is the mean difference between encodings of prompts with its name and without; the
    aim of a trial is the encoding of its prompt without the name plus ``strength`` times that.
    Whoever has the public text encoder can search; the edited model is only asked for pictures. It
    takes no network evaluation; each trial takes ``steps * (1 + candidates)`` encodings.

    Differs from the paper:
        The concept is learnt from the trial's own prompt with and without the name, or from the
        concept's wordings (``pairs``), where the paper has 30 to 50 written pairs. Greedy
        coordinate search on the same objective replaces the genetic search, which is there as a
        setting, and in which the best is never lost (the released one mutates it). Prompts are 8
        tokens where the paper has 16, 38 and 75 (preset ``paper``).
    """

    name: ClassVar[str] = "ring_a_bell"
    paper: ClassVar[Paper | None] = Paper(
        "Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?",
        "2310.10012",
        2024,
    )
    access: ClassVar[Access] = "text_encoder"
    families: ClassVar[frozenset[str]] = TOKEN_FAMILIES

    tokens: int = 8
    """Tokens of each prompt."""
    strength: float = 1.5
    """How much of the concept is added, eta; 1 is as much as the name adds."""
    pairs: Literal["prompt", "wordings"] = "prompt"
    """What the concept is learnt from: the trial's own prompt, or the concept's wordings."""
    search: Literal["greedy", "genetic"] = "greedy"
    """How tokens are searched."""
    steps: int = 40
    """Steps, or generations."""
    candidates: int = 24
    """Changes that are tried per step, or half of the population."""
    top: int = 64
    """Tokens per position that greedy candidates are drawn from."""
    mutation: float = 0.25
    """Probability that a child of the genetic search changes in one token."""
    every: int = 10
    """Steps between attempts."""

    def __post_init__(self) -> None:
        require_positive(self, "tokens", "strength", "steps", "candidates", "top", "every")

    @classmethod
    def presets(cls) -> Mapping[str, RingABell]:
        """Gives the paper's numbers."""
        return {
            "paper": cls(
                search="genetic",
                pairs="wordings",
                tokens=16,
                strength=3.0,
                steps=3000,
                candidates=100,
                every=3000,
            )
        }

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Searches for all open trials with the unedited encoder, and attempts their best."""
        draws, course, vocabulary = trial_draws(target, generator), Course(target), Tokens(target)
        places = vocabulary.places([""] * len(target.trials), self.tokens)
        aims = torch.stack([self._aim(target, trial) for trial in target.trials])
        search = self._searched(vocabulary, places, aims, course, draws)
        for step in range(1, self.steps + 1):
            with target.unedited():
                best = next(search)
            if step % self.every and step != self.steps:
                continue
            texts = vocabulary.words(places, best)
            attempts = course.attempts(
                {trial: texts[trial] for trial in course.opened},
                f"{self.tokens} tokens after {step} steps",
                last=step == self.steps,
            )
            if attempts:
                course.follow((yield attempts))

    def _aim(self, target: Target, sample: Sample) -> Float[Tensor, "tokens dim"]:
        """Gives ``E(p) + eta c`` of one trial."""
        bare = nameless(sample, target.concept).prompt
        pairs = [(named(sample, target.concept), bare)]
        if self.pairs == "wordings":
            pairs = list(_worded(target.concept))
        with target.unedited() as base:
            having, lacking = (base.conditions(side).rows for side in zip(*pairs, strict=True))
            plain = base.conditions([bare]).rows[0]
        return plain + self.strength * concept_vector(having, lacking)

    def _searched(
        self,
        vocabulary: Tokens,
        places: Places,
        aims: Float[Tensor, "trials tokens dim"],
        course: Course,
        draws: list[torch.Generator],
    ) -> Iterator[Int[Tensor, "trials k"]]:
        """Steps on with the open trials, and gives the best tokens of all so far."""

        def losses(trials: list[int], rows: Float[Tensor, "n k dim"]) -> Float[Tensor, " n"]:
            read = vocabulary.encode(places[trials], rows, gradients=rows.requires_grad).rows
            return (read - aims[trials].to(read)).square().flatten(1).sum(dim=1)

        table, allowed = vocabulary.table, vocabulary.allowed
        if self.search == "greedy":
            greedy = GreedySearch(table, allowed, self.tokens, losses, generators=draws)
            while True:
                greedy.step(course.opened, top=self.top, count=self.candidates)
                yield greedy.best
        free = allowed.nonzero().flatten()

        def of(trial: int) -> Callable[[Tensor], Tensor]:
            return lambda tokens: losses([trial] * len(tokens), table[tokens])

        populations = [
            GeneticSearch(free, self.tokens, 2 * self.candidates, of(trial), generator=one)
            for trial, one in enumerate(draws)
        ]
        while True:
            for trial in course.opened:
                populations[trial].step(mutation=self.mutation)
            yield torch.stack([each.population[0] for each in populations])


def concept_vector(
    having: Float[Tensor, "n tokens dim"], lacking: Float[Tensor, "n tokens dim"]
) -> Float[Tensor, "tokens dim"]:
    """Gives the mean difference between encodings with a concept and without it."""
    vector: Tensor = (having - lacking).mean(dim=0)
    return vector


def _worded(concept: Concept) -> Iterator[tuple[str, str]]:
    """Gives prompts that mean a concept, each beside the same without its name."""
    for text in wordings(concept):
        sample = Sample(text, 0, "erased", concept)
        bare = renamed(sample, concept, "")
        if bare is not None:
            yield text, " ".join(bare.split())
