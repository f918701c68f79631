"""Aligns the noise predicted around a concept by low-rank layers (RealEra's second part)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.closed_form.neighbours import Shell, sampled
from efface.contracts import Monitor, Paper, TextToImage, silent
from efface.deltas.application import unedited
from efface.diffusion.denoising import Denoiser
from efface.diffusion.losses import Target, squared_errors
from efface.errors import BadRequest
from efface.hosts.conditions import Conditions
from efface.runs.gradient_eraser import SMALL, GradientEraser, Trainable
from efface.runs.gradient_runs import GradientRun

if TYPE_CHECKING:
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["RealeraNoise"]


@dataclass(frozen=True, kw_only=True)
class RealeraNoise(GradientEraser):
    """Trains what is predicted near a concept's embedding to be the anchor's, beyond it to stay.

    Every step perturbs the token rows of the concept's prompts: points within the near shell must
    predict what the unedited model predicts for the anchor, points beyond it what it predicts for
    themselves. Low-rank layers beside keys and values are trained, so the result is a small,
    removable adapter. ``realera+realera_noise`` is the whole method: the closed form first, then
    this on the model it gave.

    No code was published: this is a reconstruction, see `realera`. The form of both losses, the
    layers and all numbers are chosen to be consistent with the abstract and with MACE.

    Differs from the paper:
        What of it is known does not say where latents come from; here they are those of the
        unedited model's trajectories. Radii are in lengths of each row, and where two encoders
        stand side by side, of each one's part. ``keep_weight`` is ours.
    """

    name: ClassVar[str] = "realera_noise"
    paper: ClassVar[Paper] = Paper(
        "RealEra: Semantic-level Concept Erasure via Neighbor-Concept Mining", "2410.09140", 2024
    )
    revision: ClassVar[int] = 2

    parameters: Literal["key_value", "cross_attention"] = "key_value"
    """Which layers get low-rank layers beside them."""
    rank: int = 1
    """Rank of the low-rank layers."""
    near: tuple[float, float] = (0.9, 1.0)
    """Cosines to the concept's rows of the points that are erased along."""
    near_distance: float = 0.45
    """How far those may be, in lengths of the row."""
    beyond: tuple[float, float] = (0.5, 0.85)
    """Cosines of the points that stay where they are."""
    beyond_weight: float = 1.0
    """gamma: weight of the points beyond."""
    steps: int = 50
    """Optimiser steps. More erase deeper and disturb the rest more."""
    learning_rate: float = 1e-4
    """Step size of the optimiser."""
    batch: int = 4
    """Latents per step and side."""
    optimiser: Literal["adam", "adamw"] = "adamw"
    """Adam, or AdamW with weight_decay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1 or self.beyond_weight < 0:
            raise BadRequest("rank must be at least 1 and beyond_weight not negative")
        self._shells()

    @classmethod
    def presets(cls) -> Mapping[str, RealeraNoise]:
        """Gives reconstructed settings, and those measured for the bundled model."""
        return {
            "reconstructed-object": cls(learning_rate=1e-5),
            "reconstructed-style": cls(near=(0.92, 1.0), near_distance=0.4, beyond=(0.5, 0.88)),
            "emoji": cls(
                **SMALL
                | {
                    "learning_rate": 1e-3,
                    "weight_decay": 0.0,
                    "rank": 4,
                    "beyond_weight": 0.3,
                    "keep_weight": 100.0,
                }
            ),
        }

    def trainable(self, concepts: int = 1) -> Trainable:  # noqa: ARG002
        """Layers beside the chosen ones."""
        return Trainable(self.parameters, self.rank)

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Samples the pool with the unedited model, then trains the layers."""
        run = GradientRun(self, model, request, generator=generator, monitor=monitor)
        near, beyond = self._shells()
        with unedited(model):
            pool = run.pool()
            anchored = run.answered(pool, run.anchors)
        with run.adapting(self.parameters, rank=self.rank) as adapters:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                drawn = torch.randint(len(pool), (self.batch,), generator=generator)
                visits, prompts = pool[drawn], run.prompts[pool.prompt_index[drawn]]
                inside, outside = (
                    _around(run.denoiser, prompts, shell, generator) for shell in (near, beyond)
                )
                latents, times = visits.latents, visits.times
                with adapters.teacher(), unedited(model):
                    stay = run.denoiser.predict(latents, times, outside)
                targets = [
                    Target("near", 1.0, latents, times, inside, anchored[drawn]),
                    Target("beyond", self.beyond_weight, latents, times, outside, stay),
                    *run.keep(self.batch, generator),
                ]
                return squared_errors(run.denoiser, targets)

            run.train(losses, adapters.parameters)
            patches = adapters.patches()
        return run.result(patches)

    def _shells(self) -> tuple[Shell, Shell]:
        return Shell(*self.near, distance=self.near_distance), Shell(*self.beyond)


def _around(
    denoiser: Denoiser, own: Conditions, shell: Shell, generator: torch.Generator
) -> Conditions:
    """Moves every token row into a shell around it, but the first, which begins all prompts."""
    rows, blocks = own.rows[:, 1:], denoiser.text.blocks
    moved = sampled(rows.flatten(0, 1).cpu(), shell, 1, generator, blocks=blocks)
    moved = moved.reshape(rows.shape)
    joined = own.rows.clone()
    joined[:, 1:] = moved.to(rows)
    if own.pooled is None:
        return Conditions(joined)
    pooled = sampled(own.pooled.cpu(), shell, 1, generator)
    return Conditions(joined, pooled.to(own.pooled))
