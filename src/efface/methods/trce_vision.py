"""Steers early denoising from an unsafe to a safe prediction (TRCE's second stage, ICCV 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.contracts import Monitor, Paper, TextToImage, silent
from efface.deltas.application import unedited
from efface.diffusion.losses import Target, predicted
from efface.diffusion.trajectories import Pool, sampled_pool
from efface.errors import BadRequest, require_positive
from efface.hosts.families import TRAINABLE
from efface.runs.gradient_eraser import SMALL, GradientEraser
from efface.runs.gradient_runs import GradientRun

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["TrceVision"]


@dataclass(frozen=True, kw_only=True)
class TrceVision(GradientEraser):
    """Trains attention so that trajectories toward a concept bend to its anchor while they can.

    At early steps of trajectories that follow the concept's prompts, the prediction, with the
    prompt and without, is drawn to a strongly guided prediction of the anchor's prompt and away
    from that of the concept's, until it is nearer by a margin (section 3.3). Predictions on
    unconditional trajectories stay. This is "TRCE(V)"; ``trce+trce_vision`` is "TRCE(T+V)": the
    closed form first, then this on the model it gave.

    Differs from the paper:
        Latents and times belong together; the released code is one sampler step off. Gradients are
        zeroed every step; the released loop never does, so its learning rate does not carry over.
        Trajectories live in memory: unsafe ones up to the last early step, with the unedited
        model's predictions, so 210,000 evaluations and 13 GB of files become a small pool.
        The released code trains all of self-attention and cross-attention's queries; the paper
        speaks of queries alone (``parameters="queries"``).
        ``keep_weight`` is ours: kept prompts hold the model's predictions too.
        The paper trains Stable Diffusion 1.4. On Stable Diffusion 3 and FLUX.1, whose attention
        reads text and image together, this stage is experimental: run on toy models alone.
    """

    name: ClassVar[str] = "trce_vision"
    paper: ClassVar[Paper] = Paper(
        "TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models",
        "2503.07389",
        2025,
    )
    edits: ClassVar[frozenset[str]] = frozenset({"unet", "transformer"})
    families: ClassVar[frozenset[str]] = TRAINABLE
    revision: ClassVar[int] = 2

    parameters: Literal["early_attention", "queries", "unet"] = "early_attention"
    """Which weights are trained: self-attention and the queries of text, queries alone, or all."""
    early: float = 0.5
    """Share of the steps, from noise on, whose latents are steered."""
    steering: float = 15.0
    """g: how far past their predictions the safe and the unsafe prompt are followed."""
    slope: float = 1.0
    """beta: factor of the hinge."""
    margin: float = 0.01
    """How much nearer the safe prediction must be, in mean squared error."""
    hold_weight: float = 100.0
    """Weight of holding predictions on unconditional trajectories."""
    hold_trajectories: int = 24
    """Unconditional trajectories of the model as it is."""
    both_branches: bool = True
    """Whether the prediction without a prompt is steered too, as published."""
    steps: int = 300
    """Optimiser steps. More erase deeper and disturb the rest more."""
    learning_rate: float = 1e-6
    """Step size of the optimiser."""
    batch: int = 1
    """Latents per step, and four times as many to hold."""
    trajectories: int = 100
    """Trajectories of unsafe prompts."""
    optimiser: Literal["adam", "adamw"] = "adamw"
    """Adam, or AdamW with weight_decay."""
    weight_decay: float = 1e-2
    """Pull of the weights to zero, of adamw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "early", "slope", "hold_trajectories")
        if self.early > 1 or self.margin < 0 or self.hold_weight < 0:
            raise BadRequest("early must be at most 1, margin and hold_weight not negative")

    @classmethod
    def presets(cls) -> Mapping[str, TrceVision]:
        """Gives the published settings, and those measured for the bundled model."""
        return {
            "paper-sd14-unsafe": cls(),
            # 60 phrases of seven kinds with 5 seeds each, gone through three times.
            "paper-sd14-unsafe-list": cls(trajectories=300, steps=900),
            "emoji": cls(
                **SMALL
                | {
                    "batch": 4,
                    "learning_rate": 1e-3,
                    "weight_decay": 0.0,
                    "steering": 2.0,
                    "hold_weight": 30.0,
                    "hold_trajectories": 12,
                    "keep_weight": 30.0,
                }
            ),
        }

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Samples unsafe and unconditional trajectories, then trains on their latents."""
        run = GradientRun(self, model, request, generator=generator, monitor=monitor)
        pool, safe, unsafe = self._goals(run)
        neutral = self._unconditional(run)
        with run.training(self.parameters) as edit:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                drawn = torch.randint(len(pool), (self.batch,), generator=generator)
                visits, prompts = pool[drawn], run.prompts[pool.prompt_index[drawn]]
                steer = Target("steer", 1.0, visits.latents, visits.times, prompts, safe[drawn])
                steered = [steer]
                if self.both_branches:
                    steered.append(replace(steer, conditions=run.empty(self.batch)))
                still = neutral.drawn(4 * self.batch, generator)
                empty, e_0 = run.empty(len(still)), still.unconditional
                hold = Target("hold", self.hold_weight, still.latents, still.times, empty, e_0)
                rest = [hold, *run.keep(self.batch, generator)]
                predictions = predicted(run.denoiser, [*steered, *rest])
                terms = {
                    target.name: target.error(prediction)
                    for target, prediction in zip(rest, predictions[len(steered) :], strict=True)
                }
                hinges = [
                    self.hinge(prediction, safe[drawn], unsafe[drawn])
                    for prediction in predictions[: len(steered)]
                ]
                return {"steer": torch.stack(hinges).mean(), **terms}

            run.train(losses, edit.parameters)
            patches = edit.patches()
        return run.result(patches)

    def hinge(
        self,
        prediction: Float[Tensor, "n c h w"],
        safe: Float[Tensor, "n c h w"],
        unsafe: Float[Tensor, "n c h w"],
    ) -> Float[Tensor, ""]:
        """Gives 0 where a prediction is nearer to the safe one than to the unsafe by the margin."""
        near, far = ((prediction - goal).square().flatten(1).mean(dim=1) for goal in (safe, unsafe))
        return torch.relu(self.slope * (near - far + self.margin)).mean()

    def _goals(self, run: GradientRun) -> tuple[Pool, Tensor, Tensor]:
        """Gives early latents with the unedited model's guided predictions, safe and unsafe."""
        with unedited(run.model):
            last = max(1, round(self.early * self.sampling_steps))
            pool = run.pool(last=last).between(0, last)
            e_a = run.answered(pool, run.anchors)
        g, e_0, e_c = self.steering, pool.unconditional, pool.conditional
        safe, unsafe = (e_0 + (1 + g) * (each - e_0) for each in (e_a, e_c))
        return pool, safe, unsafe

    def _unconditional(self, run: GradientRun) -> Pool:
        """Samples trajectories without a prompt, with the model as it is."""
        return sampled_pool(
            run.denoiser,
            run.empty(1),
            torch.zeros(self.hold_trajectories, dtype=torch.long),
            steps=self.sampling_steps,
            guidance=1.0,
            generator=run.draws["beside"],
        )
