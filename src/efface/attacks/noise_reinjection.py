"""Fresh noise put in at every step: does the trajectory find its way to the concept again?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Access, Attack, Paper
from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import Visit
from efface.errors import BadRequest, require_positive
from efface.randomness import noise_like
from efface.revival.attempts import Attempt
from efface.revival.drawing import first_noise
from efface.revival.redrawing import continued, cost_of_steps

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["NoiseReinjection"]


@dataclass(frozen=True, kw_only=True)
class NoiseReinjection(Attack):
    """Draws each prompt while part of the noise is drawn anew between steps.

    Erasures learnt on a sampler's own trajectories may not hold beside them. Between two steps the
    picture that the network predicts stays, and the noise on it is mixed with fresh noise, so that
    latents have the variance which the network knows.

    Differs from the paper:
        It adds noise on top, so that latents get more of it than their time says.
    """

    name: ClassVar[str] = "noise_reinjection"
    paper: ClassVar[Paper | None] = Paper(
        "When Are Concepts Erased From Diffusion Models?", "2505.17013", 2025
    )
    access: ClassVar[Access] = "latents"
    needs_name: ClassVar[bool] = True

    shares: tuple[float, ...] = (0.3, 0.6, 1.0)
    """Share of the noise that is fresh, by its variance; 1 is all of it."""
    rounds: int = 2
    """Pictures per trial and share, each with noise of its own."""

    def __post_init__(self) -> None:
        require_positive(self, "rounds")
        if not self.shares or not all(0 <= share <= 1 for share in self.shares):
            raise BadRequest(f"shares is {self.shares}; give at least one, each from 0 to 1")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Draws the open trials again and again, with noise for all of them."""
        denoiser, trials = target.denoiser, target.trials
        opened = sorted(range(len(trials)))
        for share in [share for share in self.shares for _ in range(self.rounds)]:
            start = first_noise(denoiser, [trial.seed for trial in trials])
            fresh = torch.stack([noise_like(start, generator) for _ in range(target.steps)])
            clean = continued(
                target,
                start[opened],
                denoiser.conditions([trials[trial].prompt for trial in opened]),
                steer=_Stirring(denoiser, fresh[:, opened], share),
            )
            still = yield [
                Attempt(
                    trial=trial,
                    prompt=trials[trial].prompt,
                    seed=trials[trial].seed,
                    spent=cost_of_steps(target, 0),
                    clean=clean[place].cpu(),
                    note=f"{share:g} of the noise fresh at every step",
                )
                for place, trial in enumerate(opened)
            ]
            opened = sorted(still)


class _Stirring:
    """Mixes fresh noise into latents before each pass but the first."""

    def __init__(
        self, denoiser: Denoiser, fresh: Float[Tensor, "steps n c h w"], share: float
    ) -> None:
        self._process, self._fresh, self._share = denoiser.process, fresh, share
        self._clean: Tensor | None = None

    def __call__(self, visit: Visit) -> Visit:
        times = visit.time.to(torch.float64).expand(len(visit.latents))
        if visit.prediction is not None:
            self._clean = self._process.clean(visit.latents, visit.prediction, times)
            return visit
        if self._clean is None or not self._share:
            return visit
        # latents = signal * clean + noise: what is not the picture is noise of known weight.
        still = self._process.noised(self._clean, torch.zeros_like(self._clean), times)
        kept, share = visit.latents - still, self._share
        fresh = self._process.noised(torch.zeros_like(self._clean), self._fresh[visit.index], times)
        return replace(visit, latents=still + (1 - share) ** 0.5 * kept + share**0.5 * fresh)
