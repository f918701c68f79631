"""Several guides in one run of the sampler: what they read in one batch, what they change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Guide
from efface.deltas.gates import pairs_first
from efface.diffusion.denoising import Denoiser
from efface.diffusion.noise import guided
from efface.diffusion.sampling import Visit, denoise
from efface.errors import BadRequest
from efface.guiding.course import Course, GuidedRun, Read, refuse_unfit
from efface.hosts.conditions import Conditions

__all__ = ["Steering", "begun", "sampled"]


@dataclass(frozen=True, eq=False)
class _Asked:
    """One read that a step wants."""

    part: int
    number: int
    read: Read
    in_place: bool
    """Whether it stands in the empty prompt's place."""


@dataclass(eq=False)
class Steering:
    """The steer of one run with guides; see `efface.diffusion.sampling.Steer`."""

    run: GuidedRun
    parts: list[tuple[str, Course]]
    """Guides that are on, by name."""
    prompts: Conditions
    """What is read of the prompts without guides."""
    changes: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    """By guide: the largest relative change that it made at one step, for each sample; NaN where it
    leaves a sample alone on purpose."""
    _asked: list[_Asked] = field(default_factory=list)
    _probed: set[int] = field(default_factory=set)

    def __call__(self, visit: Visit) -> Visit:
        """Lets guides act before a pass, or after it."""
        return self._before(visit) if visit.prediction is None else self._after(visit)

    def _before(self, visit: Visit) -> Visit:
        for name, course in self.parts:
            latents = course.before(visit)
            if latents is not None:
                self._note(name, course, latents, visit.latents)
                visit = replace(visit, latents=latents)
        self._asked = [*self._wanted(visit.index)]
        negative = visit.negative
        for asked in self._asked:
            if asked.in_place:
                negative = asked.read.conditions if asked.read.edited else None
        further = tuple(each.read.conditions for each in self._asked if _rides_along(each))
        visit = replace(visit, negative=negative, further=further)
        return replace(visit, within=_all_of([course.within(visit) for _, course in self.parts]))

    def _wanted(self, index: int) -> Iterator[_Asked]:
        for part, (_, course) in enumerate(self.parts):
            for number in course.wants(index):
                in_place = course.replaces_empty and number == 0
                yield _Asked(part, number, course.reads[number], in_place)

    def _after(self, visit: Visit) -> Visit:
        answers = self._answers(visit)
        plain, dtype = self._plain(visit), visit.latents.dtype
        for part, (name, course) in enumerate(self.parts):
            if course.alters_prompt and course.acts(visit.index) and visit.conditional is not None:
                self._compare(part, visit.conditional, visit)
            own = {
                asked.number: _wide(answer)
                for asked, answer in zip(self._asked, answers, strict=True)
                if asked.part == part
            }
            prediction = course.combine(_widened(visit), own)
            if prediction is not None:
                if plain is not None:
                    self._note(name, course, prediction, plain)
                visit = replace(visit, prediction=prediction.to(dtype))
        return visit

    def _compare(self, part: int, changed: Tensor, visit: Visit) -> None:
        """Notes how far what is predicted for the prompts is from what it would be; once."""
        if part not in self._probed:
            self._probed.add(part)
            plain = self._predicted(visit, [self.prompts])[0]
            self._note(*self.parts[part], changed, plain)

    def _answers(self, visit: Visit) -> list[Tensor]:
        """Gives predictions for what was asked, those of the base from a second batch."""
        along = iter(visit.answers)
        off = [each for each in self._asked if not each.read.edited]
        base: Iterator[Tensor] = iter(())
        if off:
            with self.run.base():
                base = iter(self._predicted(visit, [each.read.conditions for each in off]))
        answers: list[Tensor] = []
        for asked in self._asked:
            if not asked.read.edited:
                answers.append(next(base))
            elif asked.in_place:
                answers.append(visit.predictions()[0])
            else:
                answers.append(next(along))
        return answers

    def _plain(self, visit: Visit) -> Tensor | None:
        """Gives what would be stepped along without guides; None where that is not known.

        Where the empty prompt is replaced it costs an evaluation, and is asked at one step.
        """
        replacing = [asked.part for asked in self._asked if asked.in_place]
        if not replacing:
            return visit.prediction
        known = self._probed.issuperset(replacing)
        if known or visit.conditional is None or self.run.guidance is None:
            return None
        self._probed.update(replacing)
        empty = self.run.denoiser.conditions([""]).repeated(len(visit.latents))
        return guided(self._predicted(visit, [empty])[0], visit.conditional, self.run.guidance)

    def _predicted(self, visit: Visit, conditions: list[Conditions]) -> tuple[Tensor, ...]:
        with pairs_first(0):
            predictions: Tensor = self.run.denoiser.predict(
                visit.scaled(visit.latents).repeat(len(conditions), 1, 1, 1),
                visit.times.repeat(len(conditions)),
                Conditions.joined(conditions),
            )
        return tuple(predictions.chunk(len(conditions)))

    def _note(self, name: str, course: Course, changed: Tensor, plain: Tensor) -> None:
        change = _relative(changed, plain)
        if course.idle is not None:
            change[course.idle] = math.nan
        known = self.changes.get(name)
        self.changes[name] = change if known is None else torch.maximum(known, change)


def begun(run: GuidedRun, guides: Sequence[Guide]) -> Steering:
    """Begins a run with guides, in their order; those that are off are left out.

    Raises:
        BadRequest: a guide is not built for the model's family, two combine predictions, or one
            cannot work in this run.
    """
    _check(run, guides)
    steering = Steering(run, [], run.conditions)
    for guide in guides:
        course = guide.begin(run)
        if course is None:
            continue
        steering.parts.append((guide.name, course))
        if course.conditions is not None:
            run = replace(run, conditions=course.conditions)
    steering.run = run
    return steering


def sampled(
    denoiser: Denoiser,
    guides: Sequence[Guide],
    prompts: Sequence[str],
    *,
    latents: Float[Tensor, "n c h w"],
    scheduler: Any,
    guidance: float | None,
    generators: Sequence[torch.Generator] | None = None,
) -> tuple[Float[Tensor, "n c h w"], Steering]:
    """Samples latents with guides; without any that is on, bit for bit as without guides.

    Args:
        denoiser: the network with what is applied to it.
        guides: in the order in which they act.
        prompts: one per sample.
        latents: noise of variance 1, which is put on the scheduler's scale.
        scheduler: set to its steps, such as from `Denoiser.ready_as_drawn`.
        guidance: scale of classifier-free guidance; None: there is none.
        generators: one per sample, of noise that a scheduler adds on the way.

    Raises:
        BadRequest: see `begun`.
    """
    steps = len(scheduler.timesteps)
    conditions = denoiser.conditions(prompts)
    run = GuidedRun(denoiser, tuple(prompts), steps, guidance, conditions)
    with denoiser.inference_mode():
        steering = begun(run, guides)
        latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
        for _ in denoise(
            denoiser,
            latents,
            steering.run.conditions,
            scheduler=scheduler,
            guidance=guidance,
            steer=steering if steering.parts else None,
            generators=generators,
        ):
            pass
    return latents, steering


def _check(run: GuidedRun, guides: Sequence[Guide]) -> None:
    host = run.denoiser.host
    refuse_unfit(guides)
    for guide in guides:
        if host.key not in guide.families:
            raise BadRequest(
                f"{guide.name} is not built for {host.title}; it works on models of the families "
                f"{', '.join(sorted(guide.families))}"
            )


def _rides_along(asked: _Asked) -> bool:
    return asked.read.edited and not asked.in_place


@contextmanager
def _all_of(contexts: Sequence[Any]) -> Iterator[None]:
    with ExitStack() as entered:
        for context in contexts:
            entered.enter_context(context)
        yield


def _wide(values: Tensor) -> Tensor:
    """Gives values in float32 at least, in which guides reckon."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _widened(visit: Visit) -> Visit:
    return replace(
        visit,
        unconditional=None if visit.unconditional is None else _wide(visit.unconditional),
        conditional=None if visit.conditional is None else _wide(visit.conditional),
        prediction=None if visit.prediction is None else _wide(visit.prediction),
    )


def _relative(changed: Tensor, plain: Tensor) -> Float[Tensor, " n"]:
    """Gives how far each sample is from what it would be, in shares of that."""
    wide = plain.float().flatten(1)
    change: Tensor = torch.linalg.vector_norm(changed.float().flatten(1) - wide, dim=1)
    size: Tensor = torch.linalg.vector_norm(wide, dim=1)
    return change / size.clamp(min=1e-12)
