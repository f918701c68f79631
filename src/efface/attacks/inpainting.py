"""Inpainting: half of a picture of the concept is given, and the edited model draws the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Access, Attack, Paper
from efface.diffusion.denoising import Denoiser
from efface.diffusion.sampling import Visit
from efface.errors import BadRequest, require_positive
from efface.randomness import noise_like
from efface.revival.attempts import Attempt
from efface.revival.drawing import decoded
from efface.revival.redrawing import continued, cost_of_steps

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["HALVES", "Inpainting", "half"]

HALVES = ("left", "right", "top", "bottom")
"""What may be given of a picture."""


class _Given(NamedTuple):
    """A part of a picture in which the attacker's judge does not see the concept."""

    clean: Float[Tensor, "c h w"]
    known: Float[Tensor, "1 h w"]
    """1 where latents are given."""
    note: str


@dataclass(frozen=True, kw_only=True)
class Inpainting(Attack):
    """Gives half of a picture of the concept as context, and draws the other half by the prompt.

    What was given does not count: only halves are used in which the attacker's judge, shown them
    alone on the picture's median colour, does not see the concept. So a success is a whole that the
    judge sees and that the given half was not. Where every half of every picture shows it, there
    is nothing to try.
    """

    name: ClassVar[str] = "inpainting"
    paper: ClassVar[Paper | None] = Paper(
        "When Are Concepts Erased From Diffusion Models?", "2505.17013", 2025
    )
    access: ClassVar[Access] = "latents"
    needs_name: ClassVar[bool] = True

    pictures: int = 8
    """Pictures of the concept."""
    tries: int = 6
    """Halves that each trial tries."""
    given_at_most: float = 0.1
    """Presence in a given half alone, up to which it is used."""

    def __post_init__(self) -> None:
        require_positive(self, "pictures", "tries")
        if not 0 <= self.given_at_most < 1:
            raise BadRequest(f"given_at_most is {self.given_at_most}; give 0 to below 1")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Draws each open trial around one half after the other."""
        halves = self._halves(target)
        trials = target.trials
        opened = sorted(range(len(trials)))
        shape = (len(trials), *target.denoiser.latent_shape)
        for turn in range(min(self.tries, len(halves))):
            noise = noise_like(torch.empty(shape), generator).to(halves[0].clean)
            given = [halves[(trial + turn) % len(halves)] for trial in opened]
            clean = torch.stack([one.clean for one in given])
            known = torch.stack([one.known for one in given])
            context = _Context(target.denoiser, clean, known, noise[opened])
            read = target.denoiser.conditions([trials[trial].prompt for trial in opened])
            found = continued(target, noise[opened], read, steer=context)
            found = known * clean + (1 - known) * found
            still = yield [
                Attempt(
                    trial=trial,
                    prompt=trials[trial].prompt,
                    seed=trials[trial].seed,
                    spent=cost_of_steps(target, 0),
                    clean=found[place].cpu(),
                    note=given[place].note,
                )
                for place, trial in enumerate(opened)
            ]
            opened = sorted(still)

    def _halves(self, target: Target) -> list[_Given]:
        """Lists the halves that do not show the concept by themselves, one picture after another.

        Raises:
            BadRequest: the attacker has no judge.
        """
        look = target.knowledge.look
        if look is None:
            raise BadRequest(
                "inpainting needs to see whether a half shows the concept by itself; give a judge"
            )
        pictures = target.pictures(self.pictures)
        pixels = decoded(target.model, pictures)
        found = []
        for name in HALVES:
            known = half(name, *pictures.shape[-2:]).to(pictures)
            alone = _alone(pixels, half(name, *pixels.shape[-2:]).to(pixels))
            for clean, seen in zip(pictures, look(alone, target.concept).tolist(), strict=True):
                if seen <= self.given_at_most:
                    found.append(_Given(clean, known, f"{name} half given, alone {seen:.2f}"))
        return found


def half(name: str, height: int, width: int) -> Float[Tensor, "1 height width"]:
    """Gives 1 in one half of a picture and 0 in the other; of an odd side the middle is drawn."""
    known = torch.zeros(1, height, width)
    places: dict[str, Any] = {
        "left": (slice(None), slice(None), slice(0, width // 2)),
        "right": (slice(None), slice(None), slice(width - width // 2, width)),
        "top": (slice(None), slice(0, height // 2)),
        "bottom": (slice(None), slice(height - height // 2, height)),
    }
    known[places[name]] = 1
    return known


def _alone(pixels: Float[Tensor, "n 3 h w"], known: Float[Tensor, "1 h w"]) -> Tensor:
    """Paints over what is not given, in each picture's median colour."""
    median = pixels.flatten(2).median(dim=2).values[:, :, None, None]
    return known * pixels + (1 - known) * median


@dataclass(eq=False)
class _Context:
    """Puts the given latents, noised to the time, in place before each pass."""

    denoiser: Denoiser
    clean: Float[Tensor, "n c h w"]
    known: Float[Tensor, "n 1 h w"]
    noise: Float[Tensor, "n c h w"]

    def __call__(self, visit: Visit) -> Visit:
        if visit.prediction is not None:
            return visit
        times = visit.time.to(torch.float64).expand(len(visit.latents))
        given = self.denoiser.process.noised(self.clean, self.noise, times)
        return replace(visit, latents=self.known * given + (1 - self.known) * visit.latents)
