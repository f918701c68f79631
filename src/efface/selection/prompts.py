"""Prompts as candidates: an eraser takes some out, and each is asked how well it denoises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.concepts import ErasureRequest
from efface.contracts import Eraser
from efface.diffusion.denoising import SAMPLES_A_PASS, Denoiser
from efface.diffusion.sampling import denoise
from efface.errors import BadRequest
from efface.randomness import derive, noise_like, split

__all__ = ["PromptCandidates", "PromptPictures", "draw_latents"]

Asked = Literal["rise", "error"]


@dataclass(frozen=True, eq=False)
class PromptPictures:
    """Clean latents of pictures of every prompt: row i is of prompt i, and of no other."""

    prompts: tuple[str, ...]
    latents: Float[Tensor, "n k c h w"]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.latents):
            raise BadRequest(
                f"there are {len(self.prompts)} prompts and pictures of {len(self.latents)}; each "
                "prompt has pictures of its own"
            )


def draw_latents(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], *, steps: int, guidance: float
) -> PromptPictures:
    """Draws pictures of prompts with a pipeline as it is, and keeps their clean latents.

    Args:
        pipe: the pipeline.
        prompts: what is drawn.
        seeds: one a picture of each prompt; all prompts share them.
        steps: denoising steps.
        guidance: scale of classifier-free guidance.
    """
    denoiser = Denoiser(pipe)
    shape = (1, *denoiser.latent_shape)
    noise = torch.cat([torch.randn(shape, generator=derive(seed, "picture")) for seed in seeds])
    pairs = [(text, place) for text in prompts for place in range(len(seeds))]
    found = []
    for start in range(0, len(pairs), SAMPLES_A_PASS // 2):
        some = pairs[start : start + SAMPLES_A_PASS // 2]
        latents = noise[[place for _, place in some]].to(denoiser.device, denoiser.dtype)
        scheduler = denoiser.ready(steps)
        latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
        conditions = denoiser.conditions([text for text, _ in some])
        for _ in denoise(denoiser, latents, conditions, scheduler=scheduler, guidance=guidance):
            pass
        found.append(latents)
    return PromptPictures(tuple(prompts), torch.cat(found).unflatten(0, (-1, len(seeds))))


class PromptCandidates:
    """Prompts of a pipeline, erased together by a method, whose pictures it then denoises.

    A prompt's loss is the squared error of the predicted noise on pictures of that prompt, mean
    over pictures, times and pixels, at times and noise that all prompts and rounds share. Prompts
    that still denoise well after their erasure are hard to forget.

    Args:
        pipe: the pipeline, unedited.
        names: what each prompt is called.
        pictures: of each prompt, in the same order.
        eraser: the lower level.
        request: writes the request that erases the prompts of some numbers.
        times: training timesteps at which the error is taken.
        asked: how far the error rose over the unedited model's, or the error itself, as the paper
            has it; that one is also low for pictures that are easy to denoise.
        generator: of the shared noise.

    Raises:
        BadRequest: names and pictures are not as many, or a time is none of the schedule's.
    """

    weighs = False

    def __init__(
        self,
        pipe: Any,
        names: Sequence[str],
        pictures: PromptPictures,
        eraser: Eraser[Any],
        request: Callable[[Sequence[int]], ErasureRequest],
        *,
        times: Sequence[int] = tuple(range(0, 1000, 100)),
        asked: Asked = "rise",
        generator: torch.Generator,
    ) -> None:
        if len(names) != len(pictures.prompts):
            raise BadRequest(f"{len(names)} names for {len(pictures.prompts)} prompts")
        self._pipe, self._denoiser = pipe, Denoiser(pipe)
        last = len(self._denoiser.process.noise) - 1
        if not times or not 0 <= min(times) <= max(times) <= last:
            raise BadRequest(f"errors are taken at times of 0 to {last}, not at {tuple(times)}")
        self.names, self.pictures, self.eraser = tuple(names), pictures, eraser
        self._request, self._asked = request, asked
        self._times = torch.tensor(times, dtype=torch.float64)
        shape = pictures.latents.shape[1:]
        drawn = torch.empty((len(times), *shape), device=pictures.latents.device)
        self._noise = noise_like(drawn, split(generator, "noise")["noise"])
        self.unedited = self.errors()
        """Of each prompt with the unedited model."""

    def __len__(self) -> int:
        """Counts the prompts."""
        return len(self.names)

    @contextmanager
    def erased(
        self, weights: Float[Tensor, " n"], *, generator: torch.Generator, start: Any = None
    ) -> Iterator[None]:
        """Erases the prompts of weight 1; see `efface.contracts.Candidates`.

        Raises:
            BadRequest: another weight than 0 and 1, or a model to go on from.
        """
        if start is not None or bool(((weights != 0) & (weights != 1)).any()):
            raise BadRequest("erasers take sets of prompts, from the unedited model; no weights")
        chosen = weights.nonzero().flatten().tolist()
        if not chosen:
            yield
            return
        result = self.eraser.erase(self._pipe, self._request(chosen), generator=generator)
        with result.delta.apply(self._pipe):
            # What is remembered of prompts is of the encoder as it was.
            self._denoiser = Denoiser(self._pipe)
            yield
        self._denoiser = Denoiser(self._pipe)

    def losses(self) -> Float[Tensor, " n"]:
        """Gives the loss of each prompt under the model as it is."""
        found = self.errors()
        return found - self.unedited if self._asked == "rise" else found

    def errors(self) -> Float[Tensor, " n"]:
        """Gives the denoising error of each prompt under the model as it is."""
        count, each = self.pictures.latents.shape[:2]
        total = torch.zeros(count, dtype=torch.float64)
        for time, noise in zip(self._times, self._noise, strict=True):
            clean = self.pictures.latents.flatten(0, 1)
            shared = noise.repeat(count, *([1] * (noise.ndim - 1))).to(clean)
            errors = self._squared(clean, shared, time, torch.arange(count).repeat_interleave(each))
            total += errors.unflatten(0, (count, each)).double().mean(dim=1).cpu()
        return total / len(self._times)

    def _squared(
        self,
        clean: Float[Tensor, "n c h w"],
        noise: Float[Tensor, "n c h w"],
        time: Float[Tensor, ""],
        of: Int[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        denoiser, times = self._denoiser, time.expand(len(clean))
        conditions = denoiser.conditions(self.pictures.prompts)
        latents = denoiser.process.noised(clean, noise, times)
        answered = denoiser.answered(conditions, of, latents=latents, times=times)
        truth = denoiser.process.truth(clean, noise, times)
        return (answered - truth).square().mean(dim=(1, 2, 3))
