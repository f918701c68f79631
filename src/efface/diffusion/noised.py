"""Pictures noised to levels of their own, and the clean latents that the network sees in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.diffusion.denoising import Denoiser
from efface.hosts.conditions import Conditions
from efface.randomness import noise_like

__all__ = ["Noised", "TeacherPredictions", "noised"]


@dataclass(frozen=True, eq=False)
class Noised:
    """Noised latents, one row each."""

    latents: Float[Tensor, "n c h w"]
    times: Float[Tensor, " n"]
    prompt_index: Int[Tensor, " n"]
    """Which of the prompts each picture was drawn for."""

    def __getitem__(self, chosen: Int[Tensor, " m"] | slice) -> Noised:
        """Selects rows."""
        return Noised(self.latents[chosen], self.times[chosen], self.prompt_index[chosen])

    def clean(self, denoiser: Denoiser, conditions: Conditions) -> Float[Tensor, "n c h w"]:
        """Gives the clean latents that the network as it is predicts, in float32, no gradients.

        Args:
            denoiser: the network.
            conditions: one a prompt.
        """
        predictions = denoiser.answered(
            conditions, self.prompt_index, latents=self.latents, times=self.times
        )
        return denoiser.process.clean(self.latents, predictions, self.times).float()


@dataclass(frozen=True, eq=False)
class TeacherPredictions:
    """Noised latents and the clean latents that the unedited network predicts for two prompts."""

    rows: Noised
    concept: Float[Tensor, "n c h w"]
    anchor: Float[Tensor, "n c h w"]

    def __getitem__(self, chosen: Int[Tensor, " m"]) -> TeacherPredictions:
        """Selects rows."""
        return TeacherPredictions(self.rows[chosen], self.concept[chosen], self.anchor[chosen])

    def drawn(self, count: int, generator: torch.Generator) -> TeacherPredictions:
        """Draws rows with equal chance, with repetition."""
        return self[torch.randint(len(self.concept), (count,), generator=generator)]


def noised(
    denoiser: Denoiser,
    clean: Float[Tensor, "n c h w"],
    times: Float[Tensor, " n"],
    prompts: Int[Tensor, " n"],
    generator: torch.Generator,
) -> tuple[Noised, Float[Tensor, "n c h w"]]:
    """Noises clean latents; gives also what a perfect network predicts there."""
    noise, process = noise_like(clean, generator), denoiser.process
    rows = Noised(process.noised(clean, noise, times), times, prompts)
    return rows, process.truth(clean, noise, times)
