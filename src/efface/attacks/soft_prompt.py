"""Concept inversion: learnt embeddings in place of tokens (Pham et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Access, Attack, Paper
from efface.errors import require_positive
from efface.randomness import split
from efface.revival.attempts import Attempt
from efface.revival.reconstruction import denoising_errors, noised_pictures, rows_of
from efface.revival.target import nameless
from efface.revival.tokens import TOKEN_FAMILIES, Tokens

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.hosts.conditions import Conditions
    from efface.revival.target import Target

__all__ = ["SoftPrompt"]


@dataclass(frozen=True, kw_only=True)
class SoftPrompt(Attack):
    """Learns embeddings that make the edited model denoise pictures of the concept.

    Textual inversion on the edited model, in place of the prompt's first tokens and without the
    concept's name: the strongest attack by text, since embeddings need not be those of any token.
    Every trial learns its own, all of them in one batch; text encoder and denoiser are those under
    attack, and no gradient is taken to their weights.

    Differs from the paper:
        Embeddings stand before the prompt without the concept's name. Random tokens start each
        trial, so that trials differ. Pictures are few and drawn by the unedited model, or given.
        Adam without weight decay and 100 steps, where the paper has AdamW and 5,000.
    """

    name: ClassVar[str] = "soft_prompt"
    paper: ClassVar[Paper | None] = Paper(
        "Circumventing Concept Erasure Methods For Text-to-Image Generative Models",
        "2308.01508",
        2024,
    )
    revision: ClassVar[int] = 2
    access: ClassVar[Access] = "gradients"
    families: ClassVar[frozenset[str]] = TOKEN_FAMILIES

    tokens: int = 1
    """Embeddings that are learnt."""
    steps: int = 100
    """Optimiser steps."""
    learning_rate: float = 0.2
    """Step size of Adam, in standard deviations of the table of embeddings."""
    batch: int = 4
    """Noised pictures per trial and step."""
    pictures: int = 8
    """Pictures of the concept that are learnt from; of a style, of what each trial asks for."""
    every: int = 25
    """Steps between attempts."""

    def __post_init__(self) -> None:
        require_positive(self, "tokens", "steps", "batch", "pictures", "every")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Takes a step for all open trials in one batch, and attempts them every so often."""
        draws = split(generator, "start", "noise")
        vocabulary = Tokens(target)
        prompts = [nameless(trial, target.concept).prompt for trial in target.trials]
        places = vocabulary.places(prompts, self.tokens)
        free = vocabulary.allowed.nonzero().flatten()
        start = free[torch.randint(len(free), places.chosen.shape, generator=draws["start"])]
        learnt = vocabulary.table[start].clone().requires_grad_()
        optimiser = torch.optim.Adam([learnt], lr=self.learning_rate * _spread(vocabulary.table))
        opened, spent = sorted(range(len(prompts))), 0
        for step in range(1, self.steps + 1):
            asked = learnt.detach()[opened].requires_grad_()
            learnt.grad = torch.zeros_like(learnt)
            learnt.grad[opened] = self._gradient(
                target, opened, vocabulary.encode(places[opened], asked), asked, draws["noise"]
            )
            optimiser.step()
            spent += self.batch
            if step % self.every and step != self.steps:
                continue
            found = learnt.detach()
            still = yield [
                Attempt(
                    trial=trial,
                    prompt=prompts[trial],
                    seed=target.trials[trial].seed,
                    spent=spent,
                    embeddings=vocabulary.given(places, trial, found[trial]),
                    note=f"{self.tokens} learnt embeddings after {step} steps",
                )
                for trial in opened
            ]
            opened, spent = sorted(still), 0

    def _gradient(
        self,
        target: Target,
        opened: Sequence[int],
        read: Conditions,
        learnt: Float[Tensor, "open k dim"],
        generator: torch.Generator,
    ) -> Float[Tensor, "open k dim"]:
        """Gives the gradient of each open trial's reconstruction error by its own embeddings."""
        denoiser, trials = target.denoiser, len(target.trials)
        pictures = target.pictures_by_trial(self.pictures).repeat_interleave(self.batch, dim=0)
        drawn = noised_pictures(denoiser, pictures, trials * self.batch, generator)
        latents, times, truth = (rows_of(each, opened, trials) for each in drawn)
        conditions = read[torch.arange(len(opened)).repeat_interleave(self.batch)]
        errors = denoising_errors(denoiser, latents, times, conditions, truth)
        (gradient,) = torch.autograd.grad(errors.sum() / self.batch, learnt)
        return gradient


def _spread(table: Float[Tensor, "vocabulary dim"]) -> float:
    return float(table.std(dim=0).mean())
