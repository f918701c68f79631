"""Token search by relaxed one-hot rows on the denoising loss (UnlearnDiffAtk, ECCV 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.contracts import Access, Attack, Paper
from efface.errors import require_positive
from efface.revival.reconstruction import Noised
from efface.revival.tokens import TOKEN_FAMILIES, Placement, Tokens, project_to_simplex
from efface.revival.trials import Course, trial_draws

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["UnlearnDiffAtk", "drawn_tokens"]


@dataclass(frozen=True, kw_only=True)
class UnlearnDiffAtk(Attack):
    """Searches tokens before each prompt with which the edited model denoises the concept best.

    Each token is a row of probabilities over the vocabulary. A step draws tokens by them, takes the
    gradient of the denoising error of noised pictures as if the draw had been the row itself
    (straight-through), steps with Adam and projects each row back onto the simplex. Times go in
    blocks from nearly clean to noise, as in the paper; after each block the likeliest tokens are
    drawn as a prompt.

    Differs from the paper:
        Defaults are small: 4 blocks of 8 steps with two samples each and a larger step, where the
        paper has 50 blocks of 40 steps (preset ``paper``). Rows hold only tokens that read back as
        themselves and do not spell the concept's names. Adam starts anew for no block, as there.
        Several pictures, drawn by the unedited model for the concept's wordings, stand for the one
        picture that the paper has of each prompt. A prompt that was drawn is not drawn again.
    """

    name: ClassVar[str] = "unlearn_diff_atk"
    paper: ClassVar[Paper | None] = Paper(
        "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate "
        "Unsafe Images ... For Now",
        "2310.11868",
        2024,
    )
    revision: ClassVar[int] = 2
    access: ClassVar[Access] = "gradients"
    families: ClassVar[frozenset[str]] = TOKEN_FAMILIES

    tokens: int = 3
    """Tokens that are searched."""
    blocks: int = 4
    """Parts of the times, from nearly clean to noise."""
    steps: int = 8
    """Optimiser steps per block."""
    batch: int = 2
    """Noised pictures per trial and step."""
    learning_rate: float = 0.05
    """Step size of Adam, in probability."""
    weight_decay: float = 0.1
    """Pull of probabilities to zero, added to their gradient."""
    earliest: float = 0.2
    """Share of the times, from clean to noise, that no block reaches: text decides little there."""
    pictures: int = 8
    """Pictures of the concept that are learnt from; of a style, of what each trial asks for."""
    placement: Placement = "prefix"
    """Where the tokens come."""

    def __post_init__(self) -> None:
        require_positive(self, "tokens", "blocks", "steps", "batch", "learning_rate", "pictures")

    @classmethod
    def presets(cls) -> Mapping[str, UnlearnDiffAtk]:
        """Gives the paper's numbers for objects and styles."""
        return {
            "paper": cls(
                tokens=3, blocks=50, steps=40, batch=1, learning_rate=0.01, earliest=0.0, pictures=1
            )
        }

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Takes a step for all open trials in one batch, and attempts them after each block."""
        draws, course, vocabulary = trial_draws(target, generator), Course(target), Tokens(target)
        prompts = [trial.prompt for trial in target.trials]
        places = vocabulary.places(prompts, self.tokens, placement=self.placement)
        free = vocabulary.allowed.nonzero().flatten()
        rows = torch.full((len(prompts), self.tokens, len(free)), 1 / len(free))
        optimiser = torch.optim.Adam([rows], lr=self.learning_rate, weight_decay=self.weight_decay)
        width = (1 - self.earliest) / self.blocks
        for block in range(self.blocks):
            start = self.earliest + block * width
            for _ in range(self.steps):
                some = course.opened
                noised = Noised.drawn(
                    target,
                    draws,
                    self.batch,
                    pictures=self.pictures,
                    trials=some,
                    earliest=start,
                    latest=start + width,
                )
                chosen = drawn_tokens(rows[some], [draws[trial] for trial in some])
                table = vocabulary.table[free]
                learnt = table[chosen].requires_grad_()
                errors = noised.errors(target.denoiser, vocabulary.encode(places[some], learnt))
                (gradient,) = torch.autograd.grad(errors.sum(), learnt)
                # Straight-through: the gradient by the one-hot draw is taken for that by the row.
                rows.grad = torch.zeros_like(rows)
                rows.grad[some] = (gradient @ table.T).clamp(-1, 1).to(rows)
                optimiser.step()
                rows.copy_(project_to_simplex(rows))
                course.spend(self.batch)
            texts = vocabulary.words(places, free[rows.argmax(dim=2)])
            attempts = course.attempts(
                {trial: texts[trial] for trial in course.opened},
                f"{self.tokens} tokens after {(block + 1) * self.steps} steps",
                last=block == self.blocks - 1,
            )
            if attempts:
                course.follow((yield attempts))


def drawn_tokens(
    rows: Float[Tensor, "trials k n"], generators: Sequence[torch.Generator]
) -> Int[Tensor, "trials k"]:
    """Draws one token per row by its probabilities, those of a trial by its own generator."""
    return torch.stack(
        [
            torch.multinomial(each, 1, generator=one)[:, 0]
            for each, one in zip(rows, generators, strict=True)
        ]
    )
