"""Pictures of the concept traced back to noise by the edited model, and drawn again from there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.contracts import Access, Attack, Paper
from efface.diffusion.inversion import inverted
from efface.errors import require_positive
from efface.revival.attempts import Attempt

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["LatentInversion"]


@dataclass(frozen=True, kw_only=True)
class LatentInversion(Attack):
    """Finds first noise that the edited model turns into the concept, from pictures of it.

    DDIM inversion with the edited model and back again, without guidance. Such noise holds the
    picture, and so brings it back in models that know nothing of it: success says that there are
    starts which lead to the concept, not that anybody would meet one. How far the noise is
    from standard normal may tell models apart: the note has its mean square (1 of drawn noise).
    Drawn with guidance, it is a harder test, which the unedited model often fails too.

    Differs from the paper:
        Its inversion optimises the noise; here it is the sampler run backwards.
    """

    name: ClassVar[str] = "latent_inversion"
    paper: ClassVar[Paper | None] = Paper("Memories of Forgotten Concepts", "2412.00782", 2025)
    access: ClassVar[Access] = "latents"
    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl"})

    pictures: int = 4
    """Pictures of the concept; each trial tries them in turn."""
    words: Literal["prompt", "empty"] = "prompt"
    """What the model reads while it inverts: the trial's prompt, or the empty one."""
    steps: int = 40
    """Steps of the inversion."""
    drawn: Literal["unguided", "guided"] = "unguided"
    """Whether it is drawn again with the target's guidance; without any the picture itself comes
    again, whatever the model knows."""

    def __post_init__(self) -> None:
        require_positive(self, "pictures", "steps")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:  # noqa: ARG002
        """Inverts a picture for each open trial, and draws from where it ended."""
        pictures = target.pictures(self.pictures)
        opened = sorted(range(len(target.trials)))
        for turn in range(self.pictures):
            given = pictures[[(trial + turn) % len(pictures) for trial in opened]]
            prompts = [target.trials[trial].prompt for trial in opened]
            read = target.denoiser.conditions(
                prompts if self.words == "prompt" else [""] * len(prompts)
            )
            with torch.no_grad():
                noise = inverted(target.denoiser, given, read, steps=self.steps)
            still = yield [
                Attempt(
                    trial=trial,
                    prompt=target.trials[trial].prompt,
                    seed=target.trials[trial].seed,
                    spent=self.steps,
                    steps=self.steps,
                    guidance=1.0 if self.drawn == "unguided" else None,
                    noise=noise[place].cpu(),
                    note=f"noise of mean square {float(noise[place].square().mean()):.2f}",
                )
                for place, trial in enumerate(opened)
            ]
            opened = sorted(still)
