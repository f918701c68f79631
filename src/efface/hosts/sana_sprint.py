"""Sana-Sprint: Sana distilled to a few steps on a circle; its transformer is told the guidance."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.hosts.conditions import Conditions
from efface.hosts.host import GuidanceKind
from efface.hosts.language import FramedRows
from efface.hosts.sana import Sana, tiny_parts
from efface.hosts.toys import built, with_drawn_biases

__all__ = ["SanaSprint"]

DISTILLED_GUIDANCE = 4.5
"""What the guidance embedding is told; the pipeline's own default."""
INTERMEDIATE = 1.3
"""The angle between two steps, in radians; other numbers of steps are evenly spaced."""


class SanaSprint(Sana):
    """Sana-Sprint: the text side of Sana, drawn in one to four steps; closed forms edit it.

    Latents are those of the pipeline over the spread of its data, so that they begin as unit noise.
    """

    key: ClassVar[str] = "sanasprint"
    title: ClassVar[str] = "Sana-Sprint"
    trains: ClassVar[bool] = False
    pipeline: ClassVar[str] = "SanaSprintPipeline"
    sprints: ClassVar[bool] = True

    @property
    def guidance_kind(self) -> GuidanceKind:
        """The network is told the scale."""
        return "distilled"

    @cached_property
    def unconditional(self) -> FramedRows:
        """The empty prompt as any other: the pipeline asks nothing without a prompt."""
        return self.rows

    def drawing(self, steps: int) -> dict[str, Any]:
        """Spaces steps evenly where there are not two."""
        return {**super().drawing(steps), "intermediate_timesteps": _intermediate(steps)}

    def set_steps(self, scheduler: Any, steps: int, **options: Any) -> None:
        """Sets angles as the pipeline does by default."""
        scheduler.set_timesteps(steps, intermediate_timesteps=_intermediate(steps), **options)

    def predict(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """Runs the transformer, which was made for flows, at an angle of the circle.

        The flow's share of noise is ``s = sin / (sin + cos)``; latents are scaled to that flow, and
        its velocity is turned into that along the circle.
        """
        network: Any = self.network
        angle = times.to(torch.float32)
        share = torch.sin(angle) / (torch.cos(angle) + torch.sin(angle))
        wide = share.view(-1, 1, 1, 1).to(latents)
        radius = (wide**2 + (1 - wide) ** 2).sqrt()
        scaled = latents * radius
        told = DISTILLED_GUIDANCE * float(network.config.guidance_embeds_scale)
        velocity: Tensor = network(
            scaled,
            encoder_hidden_states=conditions.rows,
            encoder_attention_mask=conditions.read,
            guidance=torch.full((len(latents),), told).to(latents),
            timestep=share.to(latents.dtype),
        )[0]
        turned: Tensor = (
            (1 - 2 * wide) * scaled + (1 - 2 * wide + 2 * wide**2) * velocity
        ) / radius
        return turned

    @classmethod
    def toy(cls, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Builds a ``SanaSprintPipeline``; captions pass biases before they are read."""
        pipeline = built(_pipeline, seed=seed, dtype=dtype)
        with_drawn_biases(pipeline.transformer, torch.Generator().manual_seed(0))
        return pipeline


def _intermediate(steps: int) -> float | None:
    return INTERMEDIATE if steps == 2 else None


def _pipeline() -> Any:
    from diffusers import SanaSprintPipeline, SCMScheduler

    parts = tiny_parts(SanaSprint.pipeline, guidance_embeds=True, qk_norm="rms_norm_across_heads")
    return SanaSprintPipeline(**parts, scheduler=SCMScheduler())
