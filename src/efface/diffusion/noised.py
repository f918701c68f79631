"""Pictures noised to levels of their own, and the clean latents that the network sees in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.diffusion.denoising import Denoiser
from efface.hosts.conditions import Conditions
from efface.randomness import noise_like

__all__ = ["Noised", "Told", "noised"]


@dataclass(frozen=True, eq=False)
class Noised:
    """Noised latents, one row each."""

    latents: Float[Tensor, "n c h w"]
    times: Float[Tensor, " n"]
    prompts: Int[Tensor, " n"]
    """Which of the prompts each picture was drawn for."""

    def __getitem__(self, chosen: Int[Tensor, " m"] | slice) -> Noised:
        """Selects rows."""
        return Noised(self.latents[chosen], self.times[chosen], self.prompts[chosen])

    def seen(self, denoiser: Denoiser, conditions: Conditions) -> Float[Tensor, "n c h w"]:
        """Asks the network as it is, without gradients; gives clean latents in float32.

        Args:
            denoiser: the network.
            conditions: one a prompt.
        """
        answers = denoiser.answered(
            conditions, self.prompts, latents=self.latents, times=self.times
        )
        return denoiser.process.clean(self.latents, answers, self.times).float()


@dataclass(frozen=True, eq=False)
class Told:
    """Noised latents with what one state of the network sees in them for two prompts each."""

    rows: Noised
    concept: Float[Tensor, "n c h w"]
    anchor: Float[Tensor, "n c h w"]

    def __getitem__(self, chosen: Int[Tensor, " m"]) -> Told:
        """Selects rows."""
        return Told(self.rows[chosen], self.concept[chosen], self.anchor[chosen])

    def drawn(self, count: int, generator: torch.Generator) -> Told:
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
