"""Image-to-image: a noised picture of the concept, drawn on by the edited model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.contracts import Access, Attack, Paper
from efface.errors import BadRequest, require_positive
from efface.randomness import noise_like
from efface.revival.attempts import Attempt
from efface.revival.redrawing import continued, cost_of_steps, noised_for, steps_done
from efface.revival.target import nameless

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["ImageToImage"]


@dataclass(frozen=True, kw_only=True)
class ImageToImage(Attack):
    """Starts from pictures of the concept, noised less and less, and draws on with the prompt.

    The first success is at the largest strength, where the least of the picture was given: that is
    the strength that a revival needed. At small strength the picture itself holds the concept, and
    any model draws it: ``words="nameless"`` measures how far that goes, as a control. What the
    control shows at a strength does not count as a revival there.
    """

    name: ClassVar[str] = "image_to_image"
    paper: ClassVar[Paper | None] = Paper(
        "When Are Concepts Erased From Diffusion Models?", "2505.17013", 2025
    )
    access: ClassVar[Access] = "latents"
    needs_name: ClassVar[bool] = True

    strengths: tuple[float, ...] = (0.8, 0.7, 0.6, 0.5)
    """Share of the denoising steps that are drawn, one after the other; 1 is all of them."""
    pictures: int = 8
    """Pictures of the concept; each trial starts from one of them."""
    words: Literal["prompt", "nameless"] = "prompt"
    """What is drawn: the prompt, or the prompt without the concept's name, for a control."""

    def __post_init__(self) -> None:
        require_positive(self, "pictures")
        if not self.strengths or not all(0 <= one <= 1 for one in self.strengths):
            raise BadRequest(f"strengths is {self.strengths}; give at least one, each from 0 to 1")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Draws each open trial at each strength, always from the same picture and noise."""
        trials = [
            trial if self.words == "prompt" else nameless(trial, target.concept)
            for trial in target.trials
        ]
        pictures = target.pictures(self.pictures)
        given = pictures[torch.arange(len(trials)) % len(pictures)]
        noise = noise_like(given, generator)
        opened = sorted(range(len(trials)))
        for strength in self.strengths:
            done = steps_done(target.steps, strength)
            start = noised_for(
                target.denoiser, given[opened], noise[opened], steps=target.steps, done=done
            )
            read = target.denoiser.conditions([trials[trial].prompt for trial in opened])
            clean = continued(target, start, read, done=done)
            still = yield [
                Attempt(
                    trial=trial,
                    prompt=trials[trial].prompt,
                    seed=trials[trial].seed,
                    spent=cost_of_steps(target, done),
                    clean=clean[place].cpu(),
                    note=f"from a picture at strength {strength:g}",
                )
                for place, trial in enumerate(opened)
            ]
            opened = sorted(still)
