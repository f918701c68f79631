"""The denoiser of any pipeline as one function of latents, times and conditions, counted."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.diffusion.noise import NoiseProcess
from efface.errors import BadModel, BadRequest
from efface.hosts.conditions import Conditions
from efface.hosts.families import host_of
from efface.hosts.streams import TextStream
from efface.memory import in_parts, moved
from efface.randomness import evaluating

__all__ = ["SAMPLES_A_PASS", "Denoiser"]

SAMPLES_A_PASS = 64
"""Samples that go through the network together where no gradient is asked."""


class Denoiser:
    """Runs a pipeline's U-Net or transformer on latents, and counts the samples.

    Args:
        model: a pipeline of a family whose denoiser can be run.

    Raises:
        BadModel: it is of another one, or is streamed from its files.
    """

    def __init__(self, model: Any) -> None:
        self.host = host_of(model)
        if not self.host.predicts:
            raise BadModel(f"{self.host.title} cannot be trained; see docs/families.md")
        if getattr(model, "scheduler", None) is None:
            raise BadModel(
                "only the text side of this model is open, from its files, and its denoiser is not "
                "built; load the whole model with efface.load"
            )
        self._model = model
        self.network: nn.Module = self.host.network
        self.evaluations = 0
        """Samples that went through the network, with and without gradients."""
        self.passing = slice(None)
        """Which of a batch's samples are in the network now, where memory makes it parts."""
        self._part = sys.maxsize
        self._known: dict[str, Conditions] = {}

    @cached_property
    def process(self) -> NoiseProcess:
        """How clean latents and noise mix.

        Raises:
            BadModel: in a way that is not known here.
        """
        return NoiseProcess.of(self.scheduler())

    @property
    def text(self) -> TextStream:
        """The stream that says where tokens are; of Stable Diffusion 3 that of both CLIPs."""
        return self.host.readers[0].streams[0]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """In what precision its weights are."""
        return next(self.network.parameters()).dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one sample at the model's own size."""
        return self.host.latent_shape

    def scheduler(self) -> Any:
        """Makes a fresh deterministic scheduler with the pipeline's own noise schedule.

        Steps on a circle have no deterministic ones: theirs draw noise, for latents of unit spread.
        Latents are clipped only if the pipeline's own scheduler says so: DDIM's default, for other
        schedulers' settings, would clip them to -1 to 1.
        """
        from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SCMScheduler

        config = self._model.scheduler.config
        if isinstance(self._model.scheduler, SCMScheduler):
            circle: Any = SCMScheduler.from_config(config, sigma_data=1.0)
            return circle
        if "Flow" in type(self._model.scheduler).__name__:
            flow: Any = FlowMatchEulerDiscreteScheduler.from_config(config)
            return flow
        if config.get("prediction_type") == "flow_prediction":
            shift = float(config.get("flow_shift", 1.0))
            flowing: Any = FlowMatchEulerDiscreteScheduler.from_config(config, shift=shift)
            return flowing
        clips = bool(config.get("clip_sample", False))
        made: Any = DDIMScheduler.from_config(config, clip_sample=clips)
        return made

    def timesteps(self, steps: int) -> Float[Tensor, " steps"]:
        """Lists the times that a sampler of so many steps visits, from noise to clean."""
        times: Tensor = self.ready(steps).timesteps.to(torch.float64)
        return times

    def ready(self, steps: int) -> Any:
        """Makes a scheduler that is set to so many steps."""
        return self._set(self.scheduler(), steps)

    def ready_as_drawn(self, steps: int) -> Any:
        """Makes a scheduler like the one that the pipeline draws with, set to so many steps."""
        held = self._model.scheduler
        return self._set(type(held).from_config(held.config), steps)

    def _set(self, scheduler: Any, steps: int) -> Any:
        options = {}
        if scheduler.config.get("use_dynamic_shifting"):
            options["mu"] = self.host.shift(scheduler.config)
        try:
            self.host.set_steps(scheduler, steps, **options)
        except ValueError as error:
            raise BadRequest(
                f"steps is {steps}, and {type(scheduler).__name__} cannot be set to that "
                f"({str(error)[:120]}); give another number of steps"
            ) from error
        return scheduler

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """Encodes prompts as the pipeline does, once each.

        Raises:
            BadRequest: a prompt is longer than an encoder reads.
        """
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._known:
                self._known[prompt] = self.host.encode([prompt])
        return Conditions.joined([self._known[prompt] for prompt in prompts])

    def check_lengths(self, prompts: Iterable[str]) -> None:
        """Tokenises prompts for every encoder, so that a long one is refused before any work.

        Raises:
            BadRequest: a prompt is longer than an encoder reads.
        """
        for prompt in dict.fromkeys(prompts):
            for reader in self.host.readers:
                for stream in reader.streams:
                    stream.tokenised(prompt)

    def predict(
        self,
        latents: Float[Tensor, "n c h w"],
        times: Float[Tensor, " n"],
        conditions: Conditions,
    ) -> Float[Tensor, "n c h w"]:
        """Predicts noise or velocity for every sample at its own time, in one batch.

        Where no gradient is asked and memory runs out, in parts that fit, from then on.

        Raises:
            MemoryRanOut: not even one sample fits.
        """
        if not len(latents) == len(times) == len(conditions):
            raise ValueError(f"{len(latents)} latents, {len(times)} times, {len(conditions)} texts")
        self.evaluations += len(latents)
        times = moved(times, latents.device)
        if torch.is_grad_enabled():
            self.passing = slice(None)
            return self.host.predict(latents, times, conditions)

        def ask(some: slice) -> Tensor:
            self.passing = some
            return self.host.predict(latents[some], times[some], conditions[some])

        found, self._part = in_parts(ask, len(latents), self._part)
        return found

    def answered(
        self,
        conditions: Conditions,
        followed: Int[Tensor, " n"],
        *,
        latents: Float[Tensor, "n c h w"],
        times: Float[Tensor, " n"],
    ) -> Float[Tensor, "n c h w"]:
        """Predicts without gradients and without dropout, some samples at a time.

        Args:
            conditions: one a prompt; a sample gets that of the prompt it follows.
            followed: which of them each sample follows.
            latents: where.
            times: when, one a sample.
        """
        parts = []
        with self.inference_mode():
            for some in torch.arange(len(latents)).split(SAMPLES_A_PASS):
                asked = conditions[followed[some]]
                parts.append(self.predict(latents[some], times[some], asked))
        return torch.cat(parts)

    @contextmanager
    def inference_mode(self) -> Iterator[None]:
        """Runs the body without dropout and without gradients."""
        with evaluating(self.network), torch.no_grad():
            yield
