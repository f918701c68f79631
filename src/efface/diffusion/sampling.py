"""The one denoising loop: a generator of the latents that a sampler visits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.diffusion.denoising import Denoiser
from efface.diffusion.noise import guided
from efface.hosts.conditions import Conditions

__all__ = ["Steer", "Visit", "denoise"]


@dataclass(frozen=True, eq=False)
class Visit:
    """Where sampling stands, of the samples that go on."""

    index: int
    """Steps that were done before; 0 is pure noise."""
    total: int
    time: Tensor
    """The scheduler's time, one number."""
    samples: Int[Tensor, " n"]
    """Which of the samples these are."""
    latents: Float[Tensor, "n c h w"]
    conditions: Conditions
    unconditional: Float[Tensor, "n c h w"] | None = None
    """Prediction for the empty or negative prompt; none before the pass and without guidance."""
    conditional: Float[Tensor, "n c h w"] | None = None
    """Prediction for the conditions; none before the pass."""
    prediction: Float[Tensor, "n c h w"] | None = None
    """What the scheduler steps along; none before the pass."""

    def predictions(self) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """Gives what was predicted without the prompt and with it.

        Raises:
            ValueError: before the pass, or without guidance.
        """
        if self.unconditional is None or self.conditional is None:
            raise ValueError("a visit has both predictions after its pass, with guidance")
        return self.unconditional, self.conditional


Steer: TypeAlias = Callable[[Visit], Visit]
"""Changes sampling. It sees every visit twice and gives back what goes on: before the pass, when
predictions are None and it may replace the latents; and after it, when it may replace
``prediction``. It is called without gradients and may enable them for itself."""


def denoise(
    denoiser: Denoiser,
    latents: Float[Tensor, "n c h w"],
    conditions: Conditions,
    *,
    scheduler: Any,
    guidance: float | None,
    stops: Int[Tensor, " n"] | None = None,
    negative: Conditions | None = None,
    steer: Steer | None = None,
) -> Iterator[Visit]:
    """Visits latents from noise to clean, with the model as it is, and steps on after each visit.

    The caller's ``latents`` are changed in place: after the last visit they are where each sample
    ended. Costs two network evaluations per visited sample, one without guidance.

    Args:
        denoiser: the network.
        latents: where samples start.
        conditions: one prompt per sample.
        scheduler: set to its steps, such as from `Denoiser.ready`.
        guidance: scale of classifier-free guidance; None: the conditions alone are asked.
        stops: after how many steps each sample stops; left out, all go on to the end.
        negative: what guidance leads away from, one prompt per sample; the empty one by default.
        steer: changes latents or predictions on the way.
    """
    times = scheduler.timesteps
    ends = torch.full((len(latents),), len(times)) if stops is None else stops
    for index, time in enumerate(times[: int(ends.max())]):
        samples = (ends > index).nonzero().flatten()
        visit = Visit(index, len(times), time, samples, latents[samples], conditions[samples])
        with denoiser.inference_mode():
            visit = visit if steer is None else steer(visit)
            away = None if negative is None else negative[samples]
            visit = _predicted(denoiser, visit, guidance, away)
            visit = visit if steer is None else steer(visit)
        yield visit
        stepped = scheduler.step(visit.prediction, time, visit.latents).prev_sample
        latents[samples] = stepped.detach()


def _predicted(
    denoiser: Denoiser, visit: Visit, guidance: float | None, negative: Conditions | None
) -> Visit:
    """Asks the network about a visit, with and without the prompt in one batch."""
    count = len(visit.latents)
    # Inversion starts one step before the first time.
    times = visit.time.to(torch.float64).clamp(min=0).expand(count)
    if guidance is None:
        conditional = denoiser.predict(visit.latents, times, visit.conditions)
        return replace(visit, conditional=conditional, prediction=conditional)
    if negative is None:
        negative = denoiser.conditions([""]).repeated(count)
    unconditional, conditional = denoiser.predict(
        torch.cat([visit.latents, visit.latents]),
        torch.cat([times, times]),
        Conditions.joined([negative, visit.conditions]),
    ).split(count)
    return replace(
        visit,
        unconditional=unconditional,
        conditional=conditional,
        prediction=guided(unconditional, conditional, guidance),
    )
