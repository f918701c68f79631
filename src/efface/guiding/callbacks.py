"""Guides that move latents, as a callback of diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from efface.contracts import Guide
from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import Visit
from efface.errors import BadRequest
from efface.guiding.course import Course, GuidedRun

__all__ = ["on_step_end"]


def on_step_end(
    guide: Guide, pipe: Any, prompts: Sequence[str], *, guidance: float = 7.5
) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    """Makes a ``callback_on_step_end`` that moves latents as a guide does before each pass.

    Pipelines call it after a step, so it acts before every pass but the first. It is for one call
    of the pipeline, or several of the same prompts.

    Args:
        guide: one that moves latents; those that combine predictions or change what is read have
            no place in a callback, since it is called when all that is done.
        pipe: the pipeline that will call it.
        prompts: those of the call, one per picture.
        guidance: the call's ``guidance_scale``.

    Raises:
        BadRequest: the guide does not only move latents, or cannot work in this run.
    """
    denoiser = Denoiser(pipe)
    conditions = denoiser.conditions(prompts)
    course: Course | None = None

    def begun(steps: int) -> Course | None:
        scale = None if 0 <= guidance <= 1 else guidance
        run = GuidedRun(denoiser, tuple(prompts), steps, scale, conditions)
        made = guide.begin(run)
        if guide.combines or (made is not None and (made.reads or made.alters_prompt)):
            raise BadRequest(
                f"{guide.name} changes what is predicted or read, which callbacks cannot; draw "
                "with efface.guided"
            )
        return made

    begun(1000)  # so that what cannot work is refused before the pipeline runs

    def call(pipeline: Any, step: int, _time: Any, given: dict[str, Any]) -> dict[str, Any]:
        nonlocal course
        times = pipeline.scheduler.timesteps
        if step == 0:
            course = begun(len(times))
        if course is None or step + 1 >= len(times):
            return given
        latents: Tensor = given["latents"]
        visit = Visit(
            index=step + 1,
            total=len(times),
            time=torch.as_tensor(times[step + 1]),
            samples=torch.arange(len(latents)),
            latents=latents,
            conditions=conditions,
            scaled=_scale_of(pipeline.scheduler, times[step + 1]),
        )
        with denoiser.inference_mode():
            moved = course.before(visit)
        return given if moved is None else {**given, "latents": moved}

    return call


def _scale_of(scheduler: Any, time: Tensor) -> Callable[[Tensor], Tensor]:
    scale = getattr(scheduler, "scale_model_input", None)
    return (lambda latents: latents) if scale is None else lambda latents: scale(latents, time)
