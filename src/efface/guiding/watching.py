"""What words attend to while a picture is drawn, with guides or without, for figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from efface.contracts import Guide, Paper
from efface.diffusion.denoising import Denoiser
from efface.diffusion.pictures import pixels_of
from efface.diffusion.sampling import Visit
from efface.diffusion.trajectories import first_noise
from efface.errors import BadRequest
from efface.guiding.course import GuidedRun
from efface.guiding.engine import sampled
from efface.guiding.latent_guide import AttentionGuide, WordCourse
from efface.randomness import evaluating

__all__ = ["Watched", "watched"]


@dataclass(frozen=True, eq=False)
class Watched:
    """One picture, and where its words attended on the way."""

    pixels: UInt8[Tensor, "h w 3"]
    words: tuple[str, ...]
    shares: tuple[float, ...]
    """When maps were read, in shares of the run."""
    maps: Float[Tensor, "times words height width"]
    """After guides moved the latents of their steps."""


def watched(
    pipe: Any,
    guides: Sequence[Guide],
    prompt: str,
    *,
    words: tuple[str, ...],
    seed: int,
    steps: int,
    guidance: float | None,
    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75),
    resolution: int | None = None,
) -> Watched:
    """Draws one picture and reads its words' maps at some steps, which costs a pass each.

    Args:
        pipe: a pipeline whose attention is read.
        guides: which lead the picture.
        prompt: what is drawn.
        words: of the prompt.
        seed: of the picture.
        steps: of the pipeline's own sampler.
        guidance: scale of classifier-free guidance; None: there is none.
        shares: when maps are read, in shares of the run.
        resolution: the maps' shorter side; see `AttentionMaps`.

    Raises:
        BadRequest: the model has no such maps, the prompt lacks a word, or a share is no share.
    """
    if not shares or any(not 0 <= share < 1 for share in shares):
        raise BadRequest(f"shares are {shares}; give shares of the run, from 0 to below 1")
    denoiser = Denoiser(pipe)
    generator = torch.Generator().manual_seed(seed)
    watch = _Watch(words=words, at=shares, resolution=resolution)
    latents, steering = sampled(
        denoiser,
        [*guides, watch],
        [prompt],
        latents=first_noise(denoiser, [generator]),
        scheduler=denoiser.ready_as_drawn(steps),
        guidance=guidance,
        generators=[generator],
    )
    with evaluating(pipe.vae), torch.no_grad():
        pixels = (pixels_of(pipe, latents)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu()
    course: Any = steering.parts[-1][1]
    return Watched(pixels, words, shares, torch.cat(course.seen))


@dataclass(frozen=True, kw_only=True)
class _Watch(AttentionGuide):
    """Reads maps and moves nothing."""

    name: ClassVar[str] = "maps"
    paper: ClassVar[Paper] = Paper("Prompt-to-Prompt", "2208.01626", 2022)

    at: tuple[float, ...] = ()

    def begin(self, run: GuidedRun) -> _Watching:
        return _Watching(self, run)


class _Watching(WordCourse):
    def __init__(self, guide: _Watch, run: GuidedRun) -> None:
        super().__init__(guide, run)
        self._reads_at = [math.ceil(share * run.steps - 1e-9) for share in guide.at]
        self.seen: list[Tensor] = []

    def before(self, visit: Visit) -> None:
        every = torch.arange(len(visit.latents))
        for step in self._reads_at:
            if step == visit.index:
                inputs = visit.scaled(visit.latents)
                self.seen.append(self.attention.seen(inputs, visit, every).cpu())

    def led(self, inputs: Tensor, visit: Visit) -> Tensor:  # noqa: ARG002
        return inputs
