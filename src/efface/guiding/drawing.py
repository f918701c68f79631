"""Pictures drawn with guides, what they cost, and whether guides did anything."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from efface import registry
from efface.contracts import Guide
from efface.diffusion.denoising import Denoiser
from efface.diffusion.pictures import pixels_of
from efface.diffusion.trajectories import first_noise
from efface.errors import BadModel, BadRequest
from efface.guiding.engine import sampled
from efface.plain_values import plain
from efface.randomness import as_usual, evaluating, whole

__all__ = ["NOTHING", "Guided", "Guides", "draw", "guide", "guided", "guides_of"]

NOTHING = 1e-5
"""A relative change, at the step where it is largest, that is no more than rounding."""
PICTURES_A_PASS = 16
"""Pictures that are sampled together."""

Guides: TypeAlias = Guide | str | Sequence[Guide | str]
"""One guide or several, each by name or with its settings."""


@dataclass(frozen=True, eq=False)
class Guided:
    """Pictures drawn with guides, in the order of the prompts."""

    pixels: UInt8[np.ndarray, "n h w 3"]
    seconds: float
    """Per picture."""
    evaluations: float
    """Network evaluations per picture; with guidance every step counts two."""
    changes: Mapping[str, tuple[float, ...]]
    """By guide: the largest relative change that it made at one step, by picture; NaN where it left
    a picture alone on purpose, such as one that is off."""
    prompts: tuple[str, ...]
    """One per picture."""

    @property
    def images(self) -> list[Image.Image]:
        """The pictures."""
        return [Image.fromarray(pixels) for pixels in self.pixels]

    def unmoved(self) -> tuple[str, ...]:
        """Says of which pictures a guide changed nothing, one sentence for each guide."""
        told = []
        for guide, changes in self.changes.items():
            still = [place for place, change in enumerate(changes) if change <= NOTHING]
            if still:
                told.append(
                    f"{guide} changed nothing beyond rounding in {len(still)} of {len(changes)} "
                    f"pictures (first prompt: '{self.prompts[still[0]]}'): the model tells what it "
                    "is given to lead away from, or toward, from nothing; check its words"
                )
        return tuple(told)


def guide(name: str, *, preset: str | None = None, **settings: Any) -> Guide:
    """Makes a guide by its name, such as ``guide("sld", preset="strong", concepts=("a dog",))``.

    Raises:
        BadRequest: an unknown name, preset or setting, or a value out of range.
    """
    made: Guide = registry.build("guides", name, preset=preset, **settings)
    return made


@as_usual()
def guided(
    pipe: Any,
    guides: Guides,
    prompts: str | Sequence[str],
    *,
    seed: int = 0,
    pictures: int = 1,
    steps: int = 50,
    guidance: float = 7.5,
) -> Guided:
    """Draws pictures with guides, as the pipeline draws them without.

    Args:
        pipe: a pipeline; deltas that are applied stay applied.
        guides: which, such as ``efface.guide("sld", concepts=("a pistol",))``; several act in
            their order.
        prompts: what to draw.
        seed: of each prompt's first picture; the next has the next number.
        pictures: for each prompt.
        steps: of the pipeline's own sampler.
        guidance: scale of classifier-free guidance; 1 or less: none.

    Raises:
        BadRequest: a guide cannot work on this model, with these prompts or settings.
        BadModel: pictures are not finite.

    Warns:
        UserWarning: a guide changed nothing in a picture.
    """
    wanted, texts, first = guides_of(guides), _texts(prompts), whole(seed)
    pictures, steps = plain("pictures", pictures, int), plain("steps", steps, int)
    if pictures < 1 or steps < 1:
        raise BadRequest(f"pictures is {pictures} and steps {steps}; give at least one of both")
    if not math.isfinite(scale := plain("guidance", guidance, float)):
        raise BadRequest(f"guidance is {guidance}; give a number, such as 7.5")
    shots = [(text, first + number) for text in texts for number in range(pictures)]
    drawn = draw(pipe, wanted, shots, steps=steps, guidance=scale)
    for sentence in drawn.unmoved():
        warnings.warn(sentence, stacklevel=2)
    return drawn


def _texts(prompts: Any) -> list[str]:
    """Lists prompts.

    Raises:
        BadRequest: there is none, or one is no text.
    """
    several = isinstance(prompts, Iterable) and not isinstance(prompts, str | bytes)
    texts = list(prompts) if several else [prompts]
    if not texts:
        raise BadRequest("there is no prompt to draw; give one")
    return [plain("the prompt", text, str) for text in texts]


def guides_of(guides: Any) -> list[Guide]:
    """Lists guides, building those that are given by name.

    Raises:
        BadRequest: there is none of a name, or something is neither a name nor a guide.
    """
    given = list(guides) if isinstance(guides, list | tuple) else [guides]
    for each in given:
        if not isinstance(each, Guide | str):
            raise BadRequest(
                f"{each!r:.40} is no guide; give efface.guide('sld', concepts=('a pistol',)), or "
                "several as a list"
            )
    return [guide(each) if isinstance(each, str) else each for each in given]


def draw(
    pipe: Any,
    guides: Sequence[Guide],
    shots: Sequence[tuple[str, int]],
    *,
    steps: int,
    guidance: float,
) -> Guided:
    """Draws prompts with seeds; see `guided`. Each picture has a generator of its own."""
    started, denoiser = time.perf_counter(), Denoiser(pipe)
    parts: list[torch.Tensor] = []
    changes: dict[str, list[float]] = {guide.name: [] for guide in guides}
    for start in range(0, len(shots), PICTURES_A_PASS):
        some = shots[start : start + PICTURES_A_PASS]
        generators = [torch.Generator().manual_seed(seed) for _, seed in some]
        latents, steering = sampled(
            denoiser,
            guides,
            [prompt for prompt, _ in some],
            latents=first_noise(denoiser, generators),
            scheduler=denoiser.ready_as_drawn(steps),
            guidance=None if 0 <= guidance <= 1 else guidance,  # as pipelines do
            generators=generators,
        )
        with evaluating(pipe.vae), torch.no_grad():
            parts.append(pixels_of(pipe, latents))
        alone = torch.full((len(some),), math.nan)
        for name, values in changes.items():
            values += steering.changes.get(name, alone).tolist()
    pixels = torch.cat(parts)
    if not bool(pixels.isfinite().all()):
        raise BadModel(
            f"with {', '.join(guide.name for guide in guides)} the model draws pictures that are "
            "not finite; take a weaker setting"
        )
    levels = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return Guided(
        pixels=levels,
        seconds=(time.perf_counter() - started) / len(shots),
        evaluations=denoiser.evaluations / len(shots),
        changes={name: tuple(values) for name, values in changes.items()},
        prompts=tuple(prompt for prompt, _ in shots),
    )
