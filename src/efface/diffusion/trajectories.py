"""Latents on the way from noise to a picture: a pool made once, or stops of single runs.

Sampling with classifier-free guidance computes, at every latent it visits, what the network
predicts with and without the prompt. A pool keeps all three, so that training on latents of the
unedited model needs no teacher and no sampling of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.diffusion.denoising import SAMPLES_A_PASS, Denoiser
from efface.diffusion.noise import guided
from efface.hosts.conditions import Conditions
from efface.progress import told

__all__ = ["Pool", "drawn_latents", "fresh_pool", "sampled_pool", "sharing_pools", "stopped"]


@dataclass(frozen=True, eq=False)
class Pool:
    """Visited latents with what the unedited model predicted there; one entry a visit."""

    latents: Float[Tensor, "n c h w"]
    times: Float[Tensor, " n"]
    places: Int[Tensor, " n"]
    """Steps that were done before; 0 is pure noise."""
    prompts: Int[Tensor, " n"]
    """Which of the prompts the trajectory followed."""
    runs: Int[Tensor, " n"]
    """Which trajectory the entry is of; entries of one run share its first noise."""
    unconditional: Float[Tensor, "n c h w"]
    """Predictions for the empty prompt."""
    conditional: Float[Tensor, "n c h w"]
    """Predictions for the prompt."""
    clean: Float[Tensor, "n c h w"]
    """Where each trajectory ended."""

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, chosen: Tensor) -> Pool:
        """Selects entries by number or mask."""
        return Pool(**{name: values[chosen] for name, values in vars(self).items()})

    def drawn(self, count: int, generator: torch.Generator) -> Pool:
        """Draws entries with equal chance, with repetition."""
        return self[torch.randint(len(self), (count,), generator=generator)]

    def between(self, first: int, last: int) -> Pool:
        """Takes the entries where at least ``first`` and fewer than ``last`` steps were done."""
        return self[(self.places >= first) & (self.places < last)]

    @staticmethod
    def joined(parts: Sequence[Pool]) -> Pool:
        """Puts pools after one another."""
        return Pool(**{name: torch.cat([vars(each)[name] for each in parts]) for name in _FIELDS})


_FIELDS = tuple(Pool.__dataclass_fields__)


def drawn_latents(
    denoiser: Denoiser, count: int, generator: torch.Generator
) -> Float[Tensor, "count c h w"]:
    """Draws where trajectories start, in float32 on the CPU, then moved."""
    drawn = torch.randn((count, *denoiser.latent_shape), generator=generator)
    return drawn.to(denoiser.device, denoiser.dtype)


def sampled_pool(
    denoiser: Denoiser,
    conditions: Conditions,
    followed: Int[Tensor, " runs"],
    *,
    steps: int,
    guidance: float,
    generator: torch.Generator,
    last: int | None = None,
) -> Pool:
    """Samples trajectories with the model as it is now and keeps every visit.

    Costs ``2 * runs * steps`` network evaluations and gives ``runs * steps`` entries.

    Args:
        denoiser: the network.
        conditions: one prompt each.
        followed: which of them each trajectory follows.
        steps: denoising steps of each.
        guidance: scale of classifier-free guidance.
        generator: draws the first noise.
        last: stop after so many steps; ``clean`` is then where the trajectories were left.
    """
    start = drawn_latents(denoiser, len(followed), generator)
    shared = _shared.get()
    if shared is None:
        return _made(denoiser, conditions, followed, start, (steps, last), guidance)
    key = (_digest(denoiser, conditions[followed], start, steps, guidance), last)
    if key in shared:
        denoiser.evaluations += 2 * len(shared[key])
        return replace(shared[key], prompts=followed[shared[key].runs])
    shared[key] = _made(denoiser, conditions, followed, start, (steps, last), guidance)
    return shared[key]


def _made(
    denoiser: Denoiser,
    conditions: Conditions,
    followed: Int[Tensor, " runs"],
    start: Float[Tensor, "runs c h w"],
    length: tuple[int, int | None],
    guidance: float,
) -> Pool:
    """Samples trajectories from given noise, some at a time."""
    parts: list[Pool] = []
    batches = torch.arange(len(followed)).split(SAMPLES_A_PASS // 2)
    with denoiser.still():
        for number, some in enumerate(batches):
            batch, own = (number, len(batches)), conditions[followed[some]]
            visits = _visited(denoiser, own, start[some], length, guidance, batch)
            clean = visits.pop()[0]
            for place, (latents, time, without, with_prompt) in enumerate(visits):
                parts.append(
                    Pool(
                        latents=latents,
                        times=torch.full((len(some),), float(time), dtype=torch.float64),
                        places=torch.full((len(some),), place),
                        prompts=followed[some],
                        runs=some,
                        unconditional=without,
                        conditional=with_prompt,
                        clean=clean,
                    )
                )
    return Pool.joined(parts)


@contextmanager
def sharing_pools() -> Iterator[None]:
    """Lets erasures inside the body reuse each other's pools, where they would be the same.

    Same weights, prompts, first noise, steps and guidance give the same pool. What it took to make
    is counted every time. For measuring many methods on one concept.
    """
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


_shared: ContextVar[dict[tuple[str, int | None], Pool] | None] = ContextVar("pools", default=None)


def _digest(
    denoiser: Denoiser, conditions: Conditions, start: Tensor, steps: int, guidance: float
) -> str:
    """Hashes what decides a pool; of the weights a sketch, which any edit moves."""
    digest = hashlib.sha256(f"{steps} {guidance}".encode())
    pooled = [] if conditions.pooled is None else [conditions.pooled]
    for tensor in (start, conditions.rows, *pooled):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for weight in denoiser.network.parameters():
        digest.update(repr(weight.detach().double().sum().item()).encode())
    return digest.hexdigest()


def _visited(
    denoiser: Denoiser,
    conditions: Conditions,
    latents: Tensor,
    length: tuple[int, int | None],
    guidance: float,
    batch: tuple[int, int],
) -> list[tuple[Tensor, ...]]:
    """Runs one batch, told by its number and how many there are, to its end.

    The last entry holds the clean latents alone.
    """
    steps, last = length
    scheduler = denoiser.ready(steps)
    empty = denoiser.conditions([""]).repeated(len(latents))
    found: list[tuple[Tensor, ...]] = []
    times = scheduler.timesteps[:last]
    for place, time in enumerate(times):
        without, with_prompt = _both(denoiser, latents, time, empty, conditions)
        found.append((latents, time, without, with_prompt))
        steered = guided(without, with_prompt, guidance)
        latents = scheduler.step(steered, time, latents).prev_sample
        passes = batch[0] * len(times) + place + 1
        told("sampling trajectories", passes, batch[1] * len(times))
    return [*found, (latents,)]


def _both(
    denoiser: Denoiser, latents: Tensor, time: Tensor, empty: Conditions, conditions: Conditions
) -> tuple[Tensor, Tensor]:
    """Predicts without and with the prompt in one batch."""
    count = len(latents)
    predicted = denoiser.predict(
        torch.cat([latents, latents]),
        time.to(torch.float64).expand(2 * count),
        Conditions.joined([empty, conditions]),
    )
    return predicted[:count], predicted[count:]


def fresh_pool(
    denoiser: Denoiser,
    conditions: Conditions,
    count: int,
    *,
    steps: int,
    guidance: float,
    generator: torch.Generator,
    teacher: Callable[[], AbstractContextManager[None]],
) -> Pool:
    """Samples latents with the model in training, and asks the frozen one about them.

    Each stops at a place of its own, drawn with equal chance.

    Args:
        denoiser: the network, as it is now.
        conditions: one prompt each, drawn with equal chance.
        count: of latents.
        steps: of a whole trajectory.
        guidance: scale of classifier-free guidance.
        generator: of all draws.
        teacher: puts the frozen network in its place for a ``with`` block.
    """
    prompts = torch.randint(len(conditions), (count,), generator=generator)
    places = torch.randint(steps, (count,), generator=generator)
    start = drawn_latents(denoiser, count, generator)
    asked = conditions[prompts]
    latents = stopped(denoiser, asked, start, places, steps=steps, guidance=guidance)
    times = denoiser.timesteps(steps)[places]
    with teacher():
        answers = denoiser.predict(
            torch.cat([latents, latents]),
            torch.cat([times, times]),
            Conditions.joined([denoiser.conditions([""]).repeated(count), asked]),
        )
    without, with_prompt = answers.split(count)
    return Pool(
        latents=latents,
        times=times,
        places=places,
        prompts=prompts,
        runs=torch.arange(count),
        unconditional=without,
        conditional=with_prompt,
        clean=latents,
    )


def stopped(
    denoiser: Denoiser,
    conditions: Conditions,
    start: Float[Tensor, "n c h w"],
    places: Int[Tensor, " n"],
    *,
    steps: int,
    guidance: float,
) -> Float[Tensor, "n c h w"]:
    """Denoises each sample for its own number of steps, with the model as it is now.

    For methods that ask for latents of the model in training. Each goes through the network two
    times a step, until it stops.

    Args:
        denoiser: the network.
        conditions: one prompt a sample.
        start: noise.
        places: steps to do for each sample; 0 leaves it as it is.
        steps: of the whole trajectory.
        guidance: scale of classifier-free guidance.
    """
    scheduler = denoiser.ready(steps)
    latents = start.clone()
    empty = denoiser.conditions([""])
    with denoiser.still():
        for place, time in enumerate(scheduler.timesteps[: int(places.max())]):
            going = (places > place).nonzero().flatten()
            some = latents[going]
            without, with_prompt = _both(
                denoiser, some, time, empty.repeated(len(going)), conditions[going]
            )
            steered = guided(without, with_prompt, guidance)
            latents[going] = scheduler.step(steered, time, some).prev_sample
    return latents
