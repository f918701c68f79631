"""The one denoising loop: a generator of the latents that a sampler visits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.deltas.gates import pairs_first
from efface.diffusion.denoising import Denoiser
from efface.errors import BadModel
from efface.hosts.conditions import Conditions

__all__ = ["Steer", "Visit", "denoise"]


def _as_they_are(latents: Tensor) -> Tensor:
    return latents


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
    negative: Conditions | None = None
    """What guidance leads away from, one prompt per sample; None: the conditions alone are asked,
    and are what is stepped along."""
    further: tuple[Conditions, ...] = ()
    """Other conditions that are asked in the same pass, one prompt per sample each."""
    answers: tuple[Float[Tensor, "n c h w"], ...] = ()
    """Predictions for the further conditions; none before the pass."""
    within: AbstractContextManager[Any] = field(default_factory=nullcontext)
    """Entered for the pass."""
    scaled: Callable[[Tensor], Tensor] = _as_they_are
    """Gives latents as the network reads them at this time, on the scheduler's scale."""

    @property
    def times(self) -> Float[Tensor, " n"]:
        """The time of each sample; inversion starts one step before the first time."""
        return self.time.to(torch.float64).clamp(min=0).expand(len(self.latents))

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
predictions are None and it may replace the latents, what guidance leads away from, the further
conditions and what the pass runs within; and after it, when it may replace ``prediction``. It is
called without gradients and may enable them for itself."""


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
    generators: Sequence[torch.Generator] | None = None,
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
        generators: one per sample, of the noise that some schedulers add on the way.
    """
    if guidance is not None and negative is None:
        negative = denoiser.conditions([""]).repeated(len(latents))
    times = _visited(scheduler, generators)
    ends = torch.full((len(latents),), len(times)) if stops is None else stops
    for index, time in enumerate(times[: int(ends.max())]):
        samples = (ends > index).nonzero().flatten()
        visit = Visit(
            index=index,
            total=len(times),
            time=time,
            samples=samples,
            latents=latents[samples],
            conditions=conditions[samples],
            negative=None if guidance is None or negative is None else negative[samples],
            scaled=_scale_of(scheduler, time),
        )
        with denoiser.inference_mode():
            visit = visit if steer is None else steer(visit)
            visit = _predicted(denoiser, visit, guidance)
            visit = visit if steer is None else steer(visit)
        yield visit
        options = _options(scheduler, generators, samples)
        stepped = scheduler.step(visit.prediction, time, visit.latents, **options).prev_sample
        latents[samples] = stepped.detach()


def _visited(scheduler: Any, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Lists the times at which the network is asked.

    Steps on a circle name the end as well, and draw noise.
    """
    times: Tensor = scheduler.timesteps
    if scheduler.config.get("prediction_type") != "trigflow":
        return times
    if generators is None:
        raise BadModel(
            "this model's steps go along a circle and draw noise on the way, for which there is no "
            "generator here; closed forms can edit it"
        )
    return times[:-1]


def _predicted(denoiser: Denoiser, visit: Visit, guidance: float | None) -> Visit:
    """Asks the network about a visit, all its conditions in one batch."""
    count, led = len(visit.latents), visit.negative is not None
    asked = [
        *([] if visit.negative is None else [visit.negative]),
        visit.conditions,
        *visit.further,
    ]
    with visit.within, pairs_first(count if led else 0):
        answers = denoiser.predict(
            visit.scaled(visit.latents).repeat(len(asked), 1, 1, 1),
            visit.times.repeat(len(asked)),
            Conditions.joined(asked),
        ).split(count)
    unconditional, conditional = answers[0] if led else None, answers[int(led)]
    prediction = conditional
    if guidance is not None and unconditional is not None:
        prediction = denoiser.host.guided(unconditional, conditional, guidance)
    return replace(
        visit,
        unconditional=unconditional,
        conditional=conditional,
        prediction=prediction,
        answers=answers[int(led) + 1 :],
    )


def _scale_of(scheduler: Any, time: Tensor) -> Callable[[Tensor], Tensor]:
    """Says how a scheduler scales latents for the network; samplers of flows do not."""
    scale = getattr(scheduler, "scale_model_input", None)
    return _as_they_are if scale is None else lambda latents: scale(latents, time)


def _options(
    scheduler: Any, generators: Sequence[torch.Generator] | None, samples: Int[Tensor, " n"]
) -> dict[str, Any]:
    """Gives a scheduler's step what pipelines give it, where it takes that: generators, eta of 0.

    TCD's own default of ``eta`` is 0.3, which adds noise.
    """
    known = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {"eta": 0.0} if "eta" in known else {}
    if generators is not None and "generator" in known:
        options["generator"] = [generators[place] for place in samples.tolist()]
    return options
