"""Every word gets a patch that attends to it, or latents are moved (Attend-and-Excite, 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from efface.contracts import Paper
from efface.diffusion.sampling import Visit
from efface.errors import BadRequest
from efface.guiding.course import Course, GuidedRun
from efface.guiding.latent_guide import AttentionGuide, Reading, WordCourse

__all__ = ["AttendAndExcite", "neglect"]


@dataclass(frozen=True, kw_only=True)
class AttendAndExcite(AttentionGuide):
    """Moves latents so that every named thing has at least one pixel that attends to it strongly.

    The loss is one minus the peak of the most neglected word's map. At some steps latents are moved
    until no word is neglected more than a threshold. Needs gradients of a part of the denoiser, and
    no guidance.

    Differs from the released code:
        Thresholds and the end are shares of the run, not numbers of steps. The network reads
        latents on the scheduler's scale. No pass is made whose result nothing reads. Refinement
        ends as soon as the threshold is met; there latents are moved once more first. The preset
        ``diffusers`` does that too, and gives the pipeline's latents step by step.
    """

    name: ClassVar[str] = "attend_and_excite"
    paper: ClassVar[Paper] = Paper(
        "Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion Models",
        "2301.13826",
        2023,
    )

    until: float = 0.5
    """Share of the run in which every step moves latents, from its beginning."""
    refine_at: tuple[float, ...] = (0.0, 0.2, 0.4)
    """Shares of the run after which a step moves latents until the threshold is reached."""
    refine_to: tuple[float, ...] = (0.05, 0.5, 0.8)
    """The peak that every word's map must reach there, one for each of these steps."""
    refining: Literal["reached", "released"] = "reached"
    """``reached``: ends when the threshold is; ``released``: after one more move."""
    over_words: Literal["worst", "soft"] = "worst"
    """``worst``: the most neglected word alone has a gradient; ``soft``: all have, by a soft
    maximum."""
    softness: float = 0.1
    """Of the soft maximum: differences of neglect below it hardly count."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.refine_to) != len(self.refine_at):
            raise BadRequest(
                f"refine_at has {len(self.refine_at)} shares and refine_to {len(self.refine_to)} "
                "thresholds; give one for each"
            )
        if any(not 0 < peak < 1 for peak in self.refine_to):
            raise BadRequest(f"refine_to is {self.refine_to}; peaks are above 0 and below 1")
        if not self.softness > 0:
            raise BadRequest(f"softness is {self.softness}; it must be above zero")

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """What the pipeline of diffusers does in 50 steps."""
        return {"diffusers": cls(refining="released", shared_over="all", resolution=16)}

    def begin(self, run: GuidedRun) -> Course | None:
        """Finds the words and the layers that are read."""
        course = _Exciting(self, run)
        return None if self.is_off else course


def neglect(
    maps: Float[Tensor, "n words height width"],
    there: Bool[Tensor, "n words"],
    *,
    softness: float | None = None,
) -> Float[Tensor, " n"]:
    """Gives how neglected each sample's worst word is: 1 minus the peak of its map.

    Args:
        maps: of words.
        there: which of them are words.
        softness: of a soft maximum over words in place of the largest; None: the largest.
    """
    lacking = (1 - maps.flatten(2).amax(dim=2)).clamp(min=0)
    if softness is None:
        return lacking.masked_fill(~there, 0.0).amax(dim=1)
    exponents = (lacking / softness).masked_fill(~there, -torch.inf)
    return softness * (exponents.logsumexp(dim=1) - there.sum(dim=1).log())


class _Exciting(WordCourse):
    def __init__(self, guide: AttendAndExcite, run: GuidedRun) -> None:
        super().__init__(guide, run)
        self._settings = guide
        self._softness = guide.softness if guide.over_words == "soft" else None

    def led(self, inputs: Float[Tensor, "n c h w"], visit: Visit) -> Float[Tensor, "n c h w"]:
        """Moves latents to the threshold where this step has one, and then once more."""
        unread, slopes = torch.arange(len(inputs)), torch.zeros_like(inputs, dtype=torch.float32)
        number = self.target(visit)
        if number is not None:
            allowed = 1 - self._settings.refine_to[number]
            inputs, slopes, unread = self._refined(inputs, visit, allowed)
        if not self._settings.guided(visit.index, visit.total):
            return inputs
        if len(unread):
            reading = self.attention.read(inputs[unread], visit, unread)
            slope = reading.gradient(self._losses(reading, visit, unread))
            slopes = slopes.to(slope.dtype).index_copy(0, unread.to(slope.device), slope)
        return self.step(inputs, slopes, visit)

    def _refined(
        self, inputs: Tensor, visit: Visit, allowed: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Moves samples until none of their words is neglected more than is allowed.

        Returns:
            The latents; gradients there; and the samples whose gradients are not known.
        """
        released = self._settings.refining == "released"
        wide = torch.promote_types(inputs.dtype, torch.float32)
        inputs, slopes = inputs.clone(), torch.zeros_like(inputs, dtype=wide)
        going, known = torch.arange(len(inputs)), torch.zeros(len(inputs), dtype=torch.bool)
        for turn in range(self._settings.refine_steps):
            reading = self.attention.read(inputs[going], visit, going)
            slope = reading.gradient(self._losses(reading, visit, going))
            above = (neglect(reading.maps.detach(), self._there(visit, going)) > allowed).cpu()
            # The released code looks at a loss after moving along its gradient, but for the first.
            moving = above | (released and turn > 0)
            slopes[going], known[going] = slope, ~moving
            inputs[going[moving]] = self.step(inputs[going], slope, visit)[moving]
            going = going[above]
            if not len(going):
                break
        return inputs, slopes, (~known).nonzero().flatten()

    def _losses(self, reading: Reading, visit: Visit, samples: Tensor) -> Float[Tensor, " n"]:
        return neglect(reading.maps, self._there(visit, samples), softness=self._softness)

    def _there(self, visit: Visit, samples: Tensor) -> Bool[Tensor, "n words"]:
        there = self.attention.words.there[visit.samples[samples]]
        return there.to(visit.latents.device)
