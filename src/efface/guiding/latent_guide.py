"""Guides that move latents along the gradient of a loss of attention maps: what they share."""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.contracts import Guide
from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import Visit
from efface.errors import BadModel, BadRequest
from efface.guiding.attention_maps import READABLE, AttentionMaps
from efface.guiding.course import Course, GuidedRun
from efface.guiding.words import Smoothing, WordMaps, subjects
from efface.memory import MemoryRanOut, translating_out_of_memory

__all__ = ["Attention", "AttentionGuide", "Reading", "WordCourse"]

HALF_SCALE = 1024.0
"""What a loss is multiplied by before it goes back through a network in float16, and its gradient
divided by: a power of two, so that nothing is rounded, and small gradients do not become zero."""

SharedOver: TypeAlias = Literal["family", "all", "words"]
"""Among which positions attention is shared out: see `efface.guiding.words.Positions`; ``family``
is ``words`` for Stable Diffusion 2.x, whose padding is another token than the end, and else
``all``."""


@dataclass(frozen=True, kw_only=True)
class AttentionGuide(Guide):
    """Settings of guides that read how much each pixel attends to each word."""

    families: ClassVar[frozenset[str]] = READABLE
    combines: ClassVar[bool] = False
    steers_by: ClassVar[tuple[str, ...]] = ("words", "among")

    words: tuple[str, ...] = ()
    """The things that must appear, as every prompt words them."""
    among: tuple[str, ...] = ()
    """In place of them, for prompts that differ: things of which each prompt names some."""
    resolution: int | None = None
    """Shorter side of the maps that are read; None: the size nearest to a quarter of the latents',
    which is 16 for Stable Diffusion 1.x at 512 pixels and 32 for XL at 1024."""
    shared_over: SharedOver = "family"
    """Positions among which attention is shared out anew."""
    temperature: float = 100.0
    """What attention is multiplied by before it is shared out by a softmax."""
    smoothing: Smoothing = "released"
    """How maps are smoothed."""
    sigma: float = 0.5
    """Deviation of the smoothing, in pixels of the maps."""
    step_size: float = 20.0
    """How far latents move along the gradient at the first step; 0 changes nothing."""
    last_step: float = 0.5
    """Square of the share of it that the last step of the run takes; in between, squares fall
    evenly."""
    normalised_step: float | None = None
    """In place of that: how far latents move whatever the gradient's length, as a share of the
    noise that is in them."""
    until: float = 1.0
    """Share of the run that is guided, from its beginning."""
    refine_at: tuple[float, ...] = ()
    """Shares of the run after which a step moves latents until a target is reached."""
    refine_steps: int = 20
    """How often such a step moves them at most, before it moves them once more as others do."""

    def __post_init__(self) -> None:
        for name, (fits, wanted) in self._ranges().items():
            if not fits:
                raise BadRequest(f"{name} is {getattr(self, name)}; {wanted}")

    def _ranges(self) -> dict[str, tuple[bool, str]]:
        """Says of each setting whether its value fits, and what would."""
        above, size = "it must be above zero", "it must be a number from zero up"
        share = 0.0 if self.normalised_step is None else self.normalised_step
        inside = all(0 <= share < 1 for share in self.refine_at)
        once = [*self.refine_at] == sorted({*self.refine_at})
        return {
            "until": (0 < self.until <= 1, "it is a share of the run, above 0 up to 1"),
            "last_step": (0 <= self.last_step <= 1, "it must be from 0 to 1"),
            "temperature": (self.temperature > 0, above),
            "sigma": (self.sigma > 0, above),
            "refine_steps": (self.refine_steps > 0, above),
            "step_size": (0 <= self.step_size < math.inf, size),
            "normalised_step": (0 <= share < math.inf, size),
            "refine_at": (
                inside and once,
                "shares of the run are from 0 to below 1, each once, in order",
            ),
        }

    def alpha(self, index: int, total: int) -> float:
        """Gives the step along the gradient at a step of the run: ``step_size sqrt(s_i)``."""
        share = index / (total - 1) if total > 1 else 0.0
        return self.step_size * math.sqrt(1 - share * (1 - self.last_step))

    def guided(self, index: int, total: int) -> bool:
        """Says whether latents are moved before a step."""
        return index < self.until * total

    def refinements(self, total: int) -> dict[int, int]:
        """Gives the steps that refine, with the number of the target each has.

        Raises:
            BadRequest: the run has so few steps that two of them are one.
        """
        # Shares of fifty steps are not exact in binary: 0.2 x 50 may be a little above 10.
        steps = [math.ceil(share * total - 1e-9) for share in self.refine_at]
        if len({*steps}) < len(steps) or any(step >= total for step in steps):
            raise BadRequest(
                f"refine_at is {self.refine_at} and the run has {total} steps, in which these are "
                f"not {len(steps)} different ones; take more steps or fewer shares"
            )
        return {step: number for number, step in enumerate(steps)}

    @property
    def is_off(self) -> bool:
        """Whether latents are never moved."""
        return (self.step_size if self.normalised_step is None else self.normalised_step) == 0

    def attention(
        self, denoiser: Denoiser, prompts: Sequence[str], latent_size: tuple[int, int]
    ) -> Attention:
        """Finds what is read of a model for prompts, at a size of latents.

        Raises:
            BadRequest: words, family or resolution do not fit; see `subjects` and `AttentionMaps`.
        """
        maps = AttentionMaps(denoiser, latent_size, resolution=self.resolution)
        positions = self.shared_over
        if positions == "family":
            positions = "words" if denoiser.host.key == "sd2" else "all"
        named = subjects(prompts, self.words, self.among)
        words = WordMaps.of(
            denoiser.text,
            prompts,
            named,
            positions=positions,
            temperature=self.temperature,
            smoothing=self.smoothing,
            sigma=self.sigma,
        )
        return Attention(denoiser, maps, words, named)


class Reading(NamedTuple):
    """Maps of words, and what they can be differentiated by."""

    maps: Float[Tensor, "n words height width"]
    inputs: Float[Tensor, "n c h w"]

    def gradient(self, losses: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Differentiates each sample's loss by its latents, in float32 at least.

        Raises:
            BadModel: the gradient is not finite.
        """
        scale = HALF_SCALE if self.inputs.dtype == torch.float16 else 1.0
        (slope,) = torch.autograd.grad(scale * losses.sum(), self.inputs)
        slope = slope.to(losses.dtype) / scale
        if not bool(slope.isfinite().all()):
            raise BadModel(
                "the gradient of the attention maps is not finite; load the model in float32 or "
                "bfloat16"
            )
        return slope


@dataclass(frozen=True, eq=False)
class Attention:
    """Reads maps of words of some prompts while a run visits its latents."""

    denoiser: Denoiser
    source: AttentionMaps
    words: WordMaps
    named: list[tuple[str, ...]]
    """The words of each prompt."""

    def read(
        self, inputs: Float[Tensor, "n c h w"], visit: Visit, samples: Int[Tensor, " n"]
    ) -> Reading:
        """Gives maps that can be differentiated by the latents.

        Args:
            inputs: latents as the network reads them.
            visit: whose time and conditions are read.
            samples: which of the visit's samples the latents are, from 0.
        """
        with torch.enable_grad():
            moving = inputs.detach().requires_grad_()
            return Reading(self._words(moving, visit, samples), moving)

    def seen(
        self, inputs: Float[Tensor, "n c h w"], visit: Visit, samples: Int[Tensor, " n"]
    ) -> Float[Tensor, "n words height width"]:
        """Gives maps without gradients."""
        with torch.no_grad():
            return self._words(inputs, visit, samples)

    def _words(self, inputs: Tensor, visit: Visit, samples: Tensor) -> Tensor:
        attention = self.source.read(inputs, visit.times[samples], visit.conditions[samples])
        return self.words[visit.samples[samples]](attention)

    def noise(
        self, like: Float[Tensor, "n c h w"], times: Float[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """Gives how much noise is in latents at their times, as the network reads them."""
        return self.denoiser.process.noised(torch.zeros_like(like), torch.ones_like(like), times)


class WordCourse(Course):
    """One run of a guide that moves latents before each pass; a guide says by which loss.

    Args:
        guide: its settings.
        run: what it guides.

    Raises:
        BadRequest: words, family, resolution or steps do not fit.
    """

    def __init__(self, guide: AttentionGuide, run: GuidedRun) -> None:
        self._guide, self._run = guide, run
        self._refinements = guide.refinements(run.steps)
        self._part = sys.maxsize
        height, width = run.denoiser.latent_shape[1:]
        self.attention = guide.attention(run.denoiser, run.prompts, (height, width))

    def before(self, visit: Visit) -> Float[Tensor, "n c h w"] | None:
        """Moves the latents of a visit; None where this step is not guided.

        Steps are taken where the network reads, so that samplers that scale latents move as others.
        """
        refines = visit.index in self._refinements
        if not (refines or self._guide.guided(visit.index, visit.total)):
            return None
        height, width = visit.latents.shape[-2:]
        if (height, width) != self.attention.source.latent_size:
            run = self._run
            self.attention = self._guide.attention(run.denoiser, run.prompts, (height, width))
        parts = [
            _visit_of(visit, some) for some in torch.arange(len(visit.latents)).split(self._part)
        ]
        return torch.cat([self._in_memory(part) for part in parts])

    def _in_memory(self, visit: Visit) -> Float[Tensor, "n c h w"]:
        """Moves samples together, or in halves from then on if memory runs out.

        Raises:
            MemoryRanOut: a single sample is too much.
        """
        count = len(visit.latents)
        try:
            with translating_out_of_memory(), torch.enable_grad():
                return self._led_back(visit)
        except MemoryRanOut as error:
            if count == 1:
                raise MemoryRanOut(
                    f"{error} on the gradient of one sample; take a smaller resolution of maps or "
                    "picture, or load the model on a device that has more"
                ) from error
        self._part = min(self._part, -(-count // 2))
        halves = torch.arange(count).split(-(-count // 2))
        return torch.cat([self._in_memory(_visit_of(visit, some)) for some in halves])

    def _led_back(self, visit: Visit) -> Float[Tensor, "n c h w"]:
        """Moves latents and puts them on the sampler's own scale again."""
        inputs = visit.scaled(visit.latents)
        moved = self.led(inputs, visit)
        # What was not moved stays bit for bit what it was.
        one = float(visit.scaled(torch.ones(1, dtype=torch.float64)))
        changed = (moved != inputs).flatten(1).any(dim=1)
        found = visit.latents.clone()
        found[changed] = (moved[changed] / one).to(found.dtype)
        return found

    @abstractmethod
    def led(self, inputs: Float[Tensor, "n c h w"], visit: Visit) -> Float[Tensor, "n c h w"]:
        """Gives where latents go, on the scale that the network reads; gradients are enabled."""

    def target(self, visit: Visit) -> int | None:
        """Gives the number of the target that this step refines to; None: it does not refine."""
        return self._refinements.get(visit.index)

    def step(
        self,
        inputs: Float[Tensor, "n c h w"],
        slope: Float[Tensor, "n c h w"],
        visit: Visit,
    ) -> Float[Tensor, "n c h w"]:
        """Moves latents once against a gradient."""
        wide, share = inputs.to(slope.dtype), self._guide.normalised_step
        if share is None:
            return (wide - self._guide.alpha(visit.index, visit.total) * slope).to(inputs.dtype)
        # A gradient of zero moves nothing.
        length = slope.flatten(1).square().mean(dim=1).sqrt().clamp(min=1e-30)
        noise = self.attention.noise(wide, visit.times[: len(wide)])
        return (wide - share * noise * slope / length[:, None, None, None]).to(inputs.dtype)


def _visit_of(visit: Visit, some: Int[Tensor, " m"]) -> Visit:
    """Selects samples of a visit before its pass."""
    return replace(
        visit,
        samples=visit.samples[some],
        latents=visit.latents[some],
        conditions=visit.conditions[some],
    )
