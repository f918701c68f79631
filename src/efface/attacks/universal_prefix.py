"""One prefix for all prompts: tokens searched once, on all trials together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Access, Attack, Paper
from efface.errors import BadRequest, require_positive
from efface.randomness import split
from efface.revival.reconstruction import Noised
from efface.revival.token_search import GreedySearch
from efface.revival.tokens import TOKEN_FAMILIES, Tokens
from efface.revival.trials import Course, trial_draws

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["UniversalPrefix"]


@dataclass(frozen=True, kw_only=True)
class UniversalPrefix(Attack):
    """Searches one prefix that lowers the denoising error of all trials together.

    Greedy coordinate search, as in ``greedy_coordinate``, on the mean error over all prompts: what
    one person finds and everybody can then put before any prompt. All trials are searched with,
    also those that have ended, so that the prefix is the same whatever is open; its network
    evaluations are shared by all and counted as setup, and a trial pays for its pictures alone. A
    prefix that was found for another concept or model can be tried first (``known``).

    Differs from the paper:
        See ``greedy_coordinate``. The paper adds prompts one after another; here all are there from
        the start.
    """

    name: ClassVar[str] = "universal_prefix"
    paper: ClassVar[Paper | None] = Paper(
        "Universal and Transferable Adversarial Attacks on Aligned Language Models",
        "2307.15043",
        2023,
    )
    revision: ClassVar[int] = 2
    access: ClassVar[Access] = "gradients"
    families: ClassVar[frozenset[str]] = TOKEN_FAMILIES

    known: str = ""
    """A prefix that is tried before any is searched; empty: none."""
    tokens: int = 3
    """Tokens that are searched."""
    steps: int = 6
    """Steps, each with one gradient and one round of candidates; 0 tries the known prefix alone."""
    candidates: int = 12
    """Changes that are tried per step."""
    top: int = 32
    """Tokens per position that candidates are drawn from."""
    batch: int = 2
    """Noised pictures per trial; each candidate takes as many network evaluations per trial."""
    every: int = 2
    """Steps between attempts."""
    earliest: float = 0.3
    """Share of the times, from clean to noise, that are not learnt from."""
    pictures: int = 8
    """Pictures of the concept that are learnt from; of a style, of what each trial asks for."""

    def __post_init__(self) -> None:
        require_positive(self, "tokens", "candidates", "top", "batch", "every", "pictures")
        if not self.known:
            require_positive(self, "steps")
        elif self.steps < 0:
            raise BadRequest(f"steps is {self.steps}; it must not be negative")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Searches with all trials, and attempts the open ones with the best prefix so far."""
        draws = split(generator, "search", "samples")
        course, vocabulary = Course(target), Tokens(target)
        prompts = [trial.prompt for trial in target.trials]
        if self.known:
            texts = {trial: f"{self.known} {prompts[trial]}" for trial in course.opened}
            course.follow((yield course.attempts(texts, "a known prefix")))
        if not self.steps:
            return
        places = vocabulary.places(prompts, self.tokens)
        noised = Noised.drawn(
            target,
            trial_draws(target, draws["samples"]),
            self.batch,
            pictures=self.pictures,
            earliest=self.earliest,
        )

        def losses(searches: list[int], rows: Float[Tensor, "n k dim"]) -> Float[Tensor, " n"]:
            """Gives each candidate's mean error over all trials."""
            every = list(range(len(prompts))) * len(searches)
            repeated = rows.repeat_interleave(len(prompts), dim=0)
            read = vocabulary.encode(places[every], repeated, gradients=rows.requires_grad)
            target.setup += self.batch * len(every)
            errors: Tensor = noised[every].errors(target.denoiser, read)
            mean: Tensor = errors.unflatten(0, (len(searches), -1)).mean(dim=1)
            return mean

        search = GreedySearch(
            vocabulary.table,
            vocabulary.allowed,
            self.tokens,
            losses,
            generators=[draws["search"]],
        )
        for step in range(1, self.steps + 1):
            search.step([0], top=self.top, count=self.candidates)
            if step % self.every and step != self.steps:
                continue
            best = search.best.expand(len(prompts), -1)
            found = vocabulary.words(places, best)
            texts = {trial: found[trial] for trial in course.opened}
            attempts = course.attempts(texts, f"one prefix for all after {step} steps")
            if attempts:
                course.follow((yield attempts))
