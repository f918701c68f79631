"""Greedy coordinate search of tokens on the denoising loss (GCG, Zou et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.contracts import Access, Attack, Paper
from efface.errors import require_positive
from efface.revival.reconstruction import Noised
from efface.revival.target import named
from efface.revival.token_search import GreedySearch
from efface.revival.tokens import TOKEN_FAMILIES, Placement, Tokens
from efface.revival.trials import Course, trial_draws

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["GreedyCoordinate"]


@dataclass(frozen=True, kw_only=True)
class GreedyCoordinate(Attack):
    """Changes one token before each prompt at a time, to what denoises the concept best.

    Every step takes the gradient by the one-hot rows of all tokens, proposes changes of one token
    each among those that it promises most of, asks the model about all of them, and goes on with
    the best, which may be worse than before; the best ever is what is drawn. A trial's samples are
    the same in all steps, so that errors can be compared.

    Differs from the paper:
        The paper attacks language models; here the loss is the error of denoising pictures of the
        concept, or the distance to what the unedited model predicts with the name in the prompt.
        8 candidates of the 32 best per position where it has 512 of 256, and 6 steps for 500.
    """

    name: ClassVar[str] = "greedy_coordinate"
    paper: ClassVar[Paper | None] = Paper(
        "Universal and Transferable Adversarial Attacks on Aligned Language Models",
        "2307.15043",
        2023,
    )
    revision: ClassVar[int] = 2
    access: ClassVar[Access] = "gradients"
    families: ClassVar[frozenset[str]] = TOKEN_FAMILIES

    tokens: int = 3
    """Tokens that are searched."""
    steps: int = 6
    """Steps, each with one gradient and one round of candidates."""
    candidates: int = 8
    """Changes that are tried per trial and step."""
    top: int = 32
    """Tokens per position that candidates are drawn from."""
    batch: int = 4
    """Noised pictures per trial; each candidate takes as many network evaluations."""
    every: int = 2
    """Steps between attempts."""
    aim: Literal["prediction", "noise"] = "noise"
    """What is to be predicted: what the unedited model predicts, or the noise that was added."""
    earliest: float = 0.3
    """Share of the times, from clean to noise, that are not learnt from."""
    pictures: int = 8
    """Pictures of the concept that are learnt from; of a style, of what each trial asks for."""
    placement: Placement = "prefix"
    """Where the tokens come."""

    def __post_init__(self) -> None:
        require_positive(self, "tokens", "steps", "candidates", "top", "batch", "every", "pictures")

    @classmethod
    def presets(cls) -> Mapping[str, GreedyCoordinate]:
        """Gives the paper's numbers of the search."""
        return {"paper": cls(tokens=20, steps=500, candidates=512, top=256, every=50)}

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Takes a step for all open trials together, and attempts their best every so often."""
        draws, course, vocabulary = trial_draws(target, generator), Course(target), Tokens(target)
        prompts = [trial.prompt for trial in target.trials]
        places = vocabulary.places(prompts, self.tokens, placement=self.placement)
        noised = Noised.drawn(
            target, draws, self.batch, pictures=self.pictures, earliest=self.earliest
        )
        if self.aim == "prediction":
            texts = [named(trial, target.concept) for trial in target.trials]
            noised = noised.as_unedited(target, texts)
            course.spend(self.batch)

        def losses(trials: list[int], rows: Float[Tensor, "n k dim"]) -> Float[Tensor, " n"]:
            read = vocabulary.encode(places[trials], rows, gradients=rows.requires_grad)
            return noised[trials].errors(target.denoiser, read)

        search = GreedySearch(
            vocabulary.table, vocabulary.allowed, self.tokens, losses, generators=draws
        )
        for step in range(1, self.steps + 1):
            search.step(course.opened, top=self.top, count=self.candidates)
            course.spend(self.batch * (1 + self.candidates))
            if step % self.every and step != self.steps:
                continue
            found = vocabulary.words(places, search.best)
            attempts = course.attempts(
                {trial: found[trial] for trial in course.opened},
                f"{self.tokens} tokens after {step} steps",
                last=step == self.steps,
            )
            if attempts:
                course.follow((yield attempts))
