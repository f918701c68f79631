"""The denoiser of any pipeline as one function of latents, times and conditions, counted."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.diffusion.noise import NoiseProcess
from efface.errors import BadModel
from efface.hosts.architectures import FAMILIES, layout
from efface.memory import in_parts
from efface.randomness import evaluating
from efface.text.branches import T5_LENGTH, TextBranch, text_branches
from efface.text.streams import TextStream, Weighted

__all__ = ["SAMPLES_A_PASS", "Conditions", "Denoiser"]

SAMPLES_A_PASS = 64
"""Samples that go through the network together where no gradient is asked."""

DISTILLED_GUIDANCE = 3.5
"""What FLUX's guidance embedding is told; its pipeline's own default."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the denoiser reads of prompts, one sample each; selected and joined like tensors."""

    rows: Float[Tensor, "n tokens dim"]
    """Rows of text."""
    pooled: Float[Tensor, "n width"] | None = None
    """One row a prompt, in the families that read one."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Int[Tensor, " m"] | Sequence[int] | slice) -> Conditions:
        """Selects samples, with repetition."""
        index = chosen if isinstance(chosen, slice | Tensor) else torch.tensor(list(chosen))
        return Conditions(self.rows[index], None if self.pooled is None else self.pooled[index])

    def repeated(self, times: int) -> Conditions:
        """Repeats one sample."""
        return self[[0] * times]

    @staticmethod
    def joined(parts: Sequence[Conditions]) -> Conditions:
        """Puts samples after one another."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Conditions(
            torch.cat([part.rows for part in parts]), torch.cat(pooled) if pooled else None
        )


class Denoiser:
    """Runs a pipeline's U-Net or transformer on latents, and counts the samples.

    Args:
        model: a pipeline of a family in `FAMILIES` except PixArt.

    Raises:
        BadModel: no such pipeline.
    """

    def __init__(self, model: Any) -> None:
        self.family = layout(model)
        if self.family not in FAMILIES or self.family == "pixart":
            raise BadModel(f"a {type(model).__name__} cannot be trained; see docs/families.md")
        self._model = model
        self.part = "transformer" if self.family in ("sd3", "flux") else "unet"
        self.network: nn.Module = getattr(model, self.part)
        self.process = NoiseProcess.of(self.scheduler())
        self.evaluations = 0
        """Samples that went through the network, with and without gradients."""
        self._part = sys.maxsize
        self._known: dict[str, Conditions] = {}

    @cached_property
    def _branches(self) -> list[TextBranch]:
        return text_branches(self._model)

    @property
    def text(self) -> TextStream:
        """The stream that says where tokens are; of Stable Diffusion 3 that of both CLIPs."""
        return self._branches[0].streams[0]

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
        config: Any = self.network.config
        if self.family == "flux":
            edge = 2 * int(getattr(self._model, "default_sample_size", 128) // 2)
            return int(config.in_channels) // 4, edge, edge
        return int(config.in_channels), int(config.sample_size), int(config.sample_size)

    def scheduler(self) -> Any:
        """Makes a fresh deterministic scheduler with the pipeline's own noise schedule.

        Latents are clipped only if the pipeline's own scheduler says so: DDIM's default, for other
        schedulers' settings, would clip them to -1 to 1.
        """
        from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

        config = self._model.scheduler.config
        if "Flow" in type(self._model.scheduler).__name__:
            flow: Any = FlowMatchEulerDiscreteScheduler.from_config(config)
            return flow
        clips = bool(config.get("clip_sample", False))
        made: Any = DDIMScheduler.from_config(config, clip_sample=clips)
        return made

    def timesteps(self, steps: int) -> Float[Tensor, " steps"]:
        """Lists the times that a sampler of so many steps visits, from noise to clean."""
        times: Tensor = self.ready(steps).timesteps.to(torch.float64)
        return times

    def ready(self, steps: int) -> Any:
        """Makes a scheduler that is set to so many steps."""
        scheduler, options = self.scheduler(), {}
        if scheduler.config.get("use_dynamic_shifting"):
            options["mu"] = self._shift(scheduler.config)
        if self.family == "flux":
            sigmas = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64)
            scheduler.set_timesteps(sigmas=sigmas.tolist(), **options)
        else:
            scheduler.set_timesteps(steps, **options)
        return scheduler

    def _shift(self, config: Any) -> float:
        """How far the times of a flow are shifted, which grows with the picture's size."""
        tokens = self.latent_shape[1] * self.latent_shape[2] / 4
        span = config.max_image_seq_len - config.base_image_seq_len
        share = (tokens - config.base_image_seq_len) / span
        return float(config.base_shift + share * (config.max_shift - config.base_shift))

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """Encodes prompts as the pipeline does, once each.

        Raises:
            BadRequest: a prompt is longer than an encoder reads.
        """
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._known:
                self._known[prompt] = self._encoded(prompt)
        return Conditions.joined([self._known[prompt] for prompt in prompts])

    def check_lengths(self, prompts: Iterable[str]) -> None:
        """Tokenises prompts for every encoder, so that a long one is refused before any work.

        Raises:
            BadRequest: a prompt is longer than an encoder reads.
        """
        for prompt in dict.fromkeys(prompts):
            for branch in self._branches:
                for stream in branch.streams:
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
        if torch.is_grad_enabled():
            return self._pass(latents, times, conditions)
        found, self._part = in_parts(
            lambda some: self._pass(latents[some], times[some], conditions[some]),
            len(latents),
            self._part,
        )
        return found

    def _pass(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Puts samples through the network together."""
        network: Any = self.network
        times = times.to(latents.device)
        match self.family:
            case "sd1" | "sd2":
                found: Tensor = network(latents, times, encoder_hidden_states=conditions.rows)[0]
            case "sdxl":
                added = {"text_embeds": conditions.pooled, "time_ids": self._sizes(latents)}
                text = {"encoder_hidden_states": conditions.rows, "added_cond_kwargs": added}
                found = network(latents, times, **text)[0]
            case "sd3":
                found = network(
                    hidden_states=latents,
                    timestep=times,
                    encoder_hidden_states=conditions.rows,
                    pooled_projections=conditions.pooled,
                )[0]
            case _:
                found = self._flux(latents, times, conditions)
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
        with self.still():
            for some in torch.arange(len(latents)).split(SAMPLES_A_PASS):
                asked = conditions[followed[some]]
                parts.append(self.predict(latents[some], times[some], asked))
        return torch.cat(parts)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Runs the body without dropout and without gradients."""
        with evaluating(self.network), torch.no_grad():
            yield

    def _encoded(self, prompt: str) -> Conditions:
        tokens, *pooled = self._branches
        plain = [s.inner if isinstance(s, Weighted) else s for s in tokens.streams]
        read = [stream.embedded([prompt]) for stream in plain]
        if self.family == "sd3" and len(read) == 1:
            # Without T5 the pipeline hands zeros in its place.
            read.append(torch.zeros(1, T5_LENGTH["sd3"], tokens.width, dtype=torch.float64))
        found = [torch.cat(read, dim=1)]
        found += [branch.streams[0].embedded([prompt])[:, 0] for branch in pooled]
        zeros = getattr(self._model.config, "force_zeros_for_empty_prompt", False)
        if self.family == "sdxl" and zeros and not prompt:
            found = [torch.zeros_like(each) for each in found]
        return Conditions(*(each.to(self.device, self.dtype) for each in found))

    def _sizes(self, latents: Tensor) -> Tensor:
        """SDXL's original size, crop and target size: a whole picture of the model's size."""
        scale = int(self._model.vae_scale_factor)
        height, width = latents.shape[-2] * scale, latents.shape[-1] * scale
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=latents.dtype)
        return sizes.to(latents.device).expand(len(latents), -1)

    def _flux(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Packs two by two latents into a token, runs FLUX, and unpacks; its time is 0 to 1."""
        n, c, h, w = latents.shape
        packed = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
        packed = packed.reshape(n, (h // 2) * (w // 2), 4 * c)
        places = torch.zeros(h // 2, w // 2, 3, dtype=latents.dtype, device=latents.device)
        places[..., 1] += torch.arange(h // 2, device=latents.device)[:, None]
        places[..., 2] += torch.arange(w // 2, device=latents.device)[None]
        network: Any = self.network
        guidance = None
        if network.config.guidance_embeds:
            guidance = torch.full((n,), DISTILLED_GUIDANCE, device=latents.device)
        found: Tensor = network(
            hidden_states=packed,
            timestep=(times / 1000).to(latents.dtype),
            guidance=guidance,
            pooled_projections=conditions.pooled,
            encoder_hidden_states=conditions.rows,
            txt_ids=torch.zeros(conditions.rows.shape[1], 3).to(places),
            img_ids=places.reshape(-1, 3),
        )[0]
        opened = found.view(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return opened.reshape(n, c, h, w)
