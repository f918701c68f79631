"""How well the edited model denoises pictures of the concept: the loss that most attacks lower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from efface.diffusion.denoising import Denoiser
from efface.hosts.conditions import Conditions
from efface.randomness import noise_like
from efface.revival.target import Target

__all__ = ["Noised", "denoising_errors", "noised_pictures", "rows_of"]


def noised_pictures(
    denoiser: Denoiser,
    pictures: Float[Tensor, "m c h w"] | Float[Tensor, "n m c h w"],
    count: int,
    generator: torch.Generator,
    *,
    earliest: float = 0.0,
    latest: float = 1.0,
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, " n"], Float[Tensor, "n c h w"]]:
    """Draws pictures, times and noise with equal chance.

    Args:
        denoiser: whose noise process it is.
        pictures: clean latents, the same for all samples or some for each.
        count: of samples.
        generator: of all draws.
        earliest: share of the training times, from clean to noise, from where on times are drawn.
        latest: share up to where.

    Returns:
        Noised latents, their times, and what a perfect network predicts there.
    """
    last = len(denoiser.process.noise)
    low, high = int(earliest * last), max(int(latest * last), int(earliest * last) + 1)
    own = pictures if pictures.ndim == 5 else pictures.expand(count, -1, -1, -1, -1)
    drawn = torch.randint(own.shape[1], (count,), generator=generator)
    clean = own[torch.arange(count), drawn]
    times = torch.randint(low, high, (count,), generator=generator).to(torch.float64)
    noise = noise_like(clean, generator)
    latents = denoiser.process.noised(clean, noise, times)
    return latents, times, denoiser.process.truth(clean, noise, times)


def denoising_errors(
    denoiser: Denoiser,
    latents: Float[Tensor, "n c h w"],
    times: Float[Tensor, " n"],
    conditions: Conditions,
    truth: Float[Tensor, "n c h w"],
) -> Float[Tensor, " n"]:
    """Gives the mean squared error of each sample's prediction, in float32."""
    prediction = denoiser.predict(latents, times, conditions)
    return (prediction.float() - truth.float()).square().flatten(1).mean(dim=1)


def rows_of(
    drawn: Float[Tensor, "n ..."], opened: Sequence[int], trials: int
) -> Float[Tensor, "m ..."]:
    """Takes the rows of open trials, in order, from what was drawn for all of them.

    Draws are made for every trial, so that one that ends changes nothing for the others.

    Args:
        drawn: as many rows for each trial, trial by trial.
        opened: trials that go on.
        trials: how many there are.
    """
    of_trials = drawn.reshape(trials, -1, *drawn.shape[1:])
    return of_trials[list(opened)].flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Noised:
    """Noised pictures of several trials, as many of each; selected by trial like tensors."""

    latents: Float[Tensor, "trials batch c h w"]
    times: Float[Tensor, "trials batch"]
    truth: Float[Tensor, "trials batch c h w"]
    """What should be predicted."""

    def __getitem__(self, trials: Sequence[int]) -> Noised:
        """Selects trials, with repetition."""
        index = torch.tensor(list(trials))
        return Noised(self.latents[index], self.times[index], self.truth[index])

    @property
    def batch(self) -> int:
        """Samples, and so network evaluations, per trial."""
        return self.times.shape[1]

    @classmethod
    def drawn(
        cls,
        target: Target,
        generators: Sequence[torch.Generator],
        batch: int,
        *,
        pictures: int,
        trials: Sequence[int] | None = None,
        earliest: float = 0.0,
        latest: float = 1.0,
    ) -> Noised:
        """Draws samples of pictures of the concept, those of each trial by its own generator.

        Args:
            target: whose pictures.
            generators: one a trial of the target.
            batch: samples of each trial.
            pictures: of the concept.
            trials: of which trials; left out, of all.
            earliest: share of the training times from where on times are drawn.
            latest: share up to where.
        """
        clean = target.pictures_by_trial(pictures)
        drawn = [
            noised_pictures(
                target.denoiser,
                clean[trial],
                batch,
                generators[trial],
                earliest=earliest,
                latest=latest,
            )
            for trial in (range(len(clean)) if trials is None else trials)
        ]
        return cls(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))

    def errors(self, denoiser: Denoiser, read: Conditions) -> Float[Tensor, " trials"]:
        """Gives each trial's mean squared error, in float32.

        Args:
            denoiser: the network.
            read: what each trial's samples read.
        """
        trials = torch.arange(len(self.times)).repeat_interleave(self.batch)
        each = denoising_errors(
            denoiser,
            self.latents.flatten(0, 1),
            self.times.flatten(),
            read[trials],
            self.truth.flatten(0, 1),
        )
        errors: Tensor = each.unflatten(0, (-1, self.batch)).mean(dim=1)
        return errors

    def as_unedited(self, target: Target, prompts: Sequence[str]) -> Noised:
        """Lets samples ask for what the unedited model predicts for prompts, one per trial.

        Its own text encoder reads them. Costs one network evaluation per sample.
        """
        texts = [text for text in prompts for _ in range(self.batch)]
        with target.unedited() as base, base.inference_mode():
            told = base.predict(
                self.latents.flatten(0, 1), self.times.flatten(), base.conditions(texts)
            )
        return replace(self, truth=told.unflatten(0, (-1, self.batch)))
