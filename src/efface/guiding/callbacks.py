"""Guides of latents inside stock diffusers pipelines, as their ``callback_on_step_end``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Guide
from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import Visit
from efface.errors import BadRequest
from efface.guiding.course import Course, GuidedRun
from efface.guiding.engine import begun

__all__ = ["StepCallback"]


class StepCallback:
    """Moves a pipeline's latents before each of its steps, as the engine of guides does.

    A pipeline calls after a step and hands its latents out: what is done there is done before the
    next one. Nothing calls before the first, so its latents are moved by `first` and given to the
    pipeline. It serves one call; `first` begins another::

        lead = StepCallback(pipe, [guide], ["a cat and an apple"], steps=50)
        noise = torch.randn(1, 4, 64, 64, generator=generator)
        pipe(prompt=..., num_inference_steps=50, latents=lead.first(noise),
             callback_on_step_end=lead)

    Args:
        pipe: a pipeline that draws with its own scheduler.
        guides: which move latents and do nothing else.
        prompts: one per picture.
        steps: the pipeline's ``num_inference_steps``.

    Raises:
        BadRequest: a guide does more than that, or cannot work here.
    """

    def __init__(
        self, pipe: Any, guides: Sequence[Guide], prompts: Sequence[str], *, steps: int
    ) -> None:
        texts = [prompts] if isinstance(prompts, str) else prompts
        self._pipe, self._guides, self._prompts = pipe, tuple(guides), tuple(texts)
        self._steps, self._denoiser = steps, Denoiser(pipe)
        self._conditions = self._denoiser.conditions(self._prompts)
        self._total = len(self._denoiser.ready_as_drawn(steps).timesteps)
        self._parts = self._begin()

    def _begin(self) -> list[tuple[str, Course]]:
        for guide in self._guides:
            if guide.combines:
                raise _refused(guide.name)
        run = GuidedRun(self._denoiser, self._prompts, self._total, None, self._conditions)
        parts = begun(run, self._guides).parts
        for name, course in parts:
            within = type(course).within is not Course.within
            if course.reads or course.alters_prompt or within:
                raise _refused(name)
        return parts

    def first(self, noise: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Moves noise of variance 1 and gives it as a pipeline's ``latents``; begins a new run.

        Raises:
            BadRequest: there is not one sample per prompt.
        """
        if len(noise) != len(self._prompts):
            raise BadRequest(
                f"there are {len(noise)} latents and {len(self._prompts)} prompts; give one prompt "
                "per picture"
            )
        self._parts = self._begin()
        scheduler = self._denoiser.ready_as_drawn(self._steps)
        # Pipelines multiply by the noise's scale once more.
        scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
        placed = noise.to(self._denoiser.device, self._denoiser.dtype)
        return self._moved(placed * scale, 0, scheduler) / scale

    def __call__(self, pipe: Any, index: int, _time: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Moves latents after a step, for the next one.

        Raises:
            BadRequest: the pipeline takes another number of steps, or changes on its way what the
                network is.
        """
        total, skipped = len(pipe.scheduler.timesteps), getattr(pipe, "clip_skip", None)
        if total != self._total:
            raise BadRequest(
                f"the pipeline is called with steps {total}, and the guide was begun for "
                f"{self._total}; call both alike"
            )
        if skipped is not None:
            raise BadRequest(
                f"the pipeline is called with clip_skip {skipped}, and the guide reads prompts as "
                "the model's own setting says; leave it out"
            )
        if getattr(pipe, "cross_attention_kwargs", None):
            raise BadRequest(
                "the pipeline is called with cross_attention_kwargs, which the guide's passes do "
                "not have; set the scale of a LoRA with set_adapters"
            )
        if index + 1 == total:
            return given
        return given | {"latents": self._moved(given["latents"], index + 1, pipe.scheduler)}

    def _moved(self, latents: Tensor, index: int, scheduler: Any) -> Tensor:
        time = scheduler.timesteps[index]
        scale = getattr(scheduler, "scale_model_input", lambda each, _: each)
        with self._denoiser.inference_mode():
            for _, course in self._parts:
                visit = Visit(
                    index=index,
                    total=self._total,
                    time=time,
                    samples=torch.arange(len(latents)),
                    latents=latents,
                    conditions=self._conditions,
                    scaled=lambda each: scale(each, time),
                )
                found = course.before(visit)
                latents = latents if found is None else found
        return latents


def _refused(name: str) -> BadRequest:
    return BadRequest(
        f"{name} changes what is predicted or read, which a callback at the end of steps cannot; "
        "draw with efface.guided"
    )
