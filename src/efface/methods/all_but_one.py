"""Update of the guidance term alone, the unconditional score held (All but One, AAAI 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.contracts import Monitor, Paper, TextToImage, silent
from efface.diffusion.losses import Target, predicted
from efface.errors import BadRequest
from efface.runs.gradient_eraser import SMALL, GradientEraser
from efface.runs.gradient_runs import GradientRun
from efface.training.gradients import orthonormal_rows, without_directions
from efface.training.hooks import Plain

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult
    from efface.diffusion.trajectories import Pool
    from efface.training.parameters import Trained

__all__ = ["AllButOne"]


@dataclass(frozen=True, kw_only=True)
class AllButOne(GradientEraser):
    """Trains what guidance adds for the concept, and holds the unconditional prediction.

    This is a **reconstruction**: no code of the authors is known, and of the paper only the
    abstract and the first figure could be read again. They name the idea: update the guidance term
    ``g(x, c) = e(x, c) - e(x, 0)`` alone, hold the drift of ``e(x, 0)``, and let the user name an
    alternative (desktop to laptop, a style to dry brushing), so that the same seed keeps its
    composition. Losses, groups and numbers are ours.

    The wanted term is the alternative's (``mode="replace"``, the anchor), none (``suppress``), or
    the concept's turned around (``negate``, as in ESD). If the unconditional prediction did not
    drift at all, these would be Concept Ablation, mapping to the empty prompt, and ESD; what the
    method adds is the constraint, the frozen model's latents and the alternative.

    The constraint is a penalty, or exact: keys and values are kept from changing in the directions
    of the empty prompt's token rows (``constraint="projection"``), so its prediction stays as it
    was, whatever the other settings, and inversion of real pictures works as before.
    """

    name: ClassVar[str] = "all_but_one"
    paper: ClassVar[Paper] = Paper(
        "All but One: Surgical Concept Erasing with Model Preservation", "2312.12807", 2024
    )
    revision: ClassVar[int] = 2

    mode: Literal["replace", "suppress", "negate"] = "replace"
    """What becomes of the guidance term: the anchor's, none, or its opposite."""
    constraint: Literal["penalty", "projection", "none"] = "penalty"
    """How the unconditional prediction is held."""
    drift_weight: float = 1.0
    """Weight of the penalty on its drift."""
    detach_unconditional: bool = True
    """Whether the guidance term is trained through the conditional prediction alone."""
    negative_guidance: float = 1.0
    """How far ``negate`` turns the term around."""
    energy: float = 1.0
    """Share of the empty prompt's rows that the projection holds; less leaves more room."""
    parameters: Literal[
        "key_value", "cross_attention", "self_attention", "not_cross_attention_paper", "unet"
    ] = "key_value"
    """Which weights are trained; the projection needs ``key_value``."""
    steps: int = 500
    """Optimiser steps. More erase deeper and disturb the rest more."""
    learning_rate: float = 1e-5
    """Step size of the optimiser."""
    batch: int = 4
    """Latents per step."""
    clip: float = 1.0
    """Longest gradient over all parameters; longer ones are shortened. 0: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.constraint == "projection" and self.parameters != "key_value":
            raise BadRequest(
                f"the projection holds what keys and values read; parameters is {self.parameters}"
            )
        if self.constraint == "projection" and self.saliency < 1:
            raise BadRequest(
                "a saliency mask would undo the projection, which moves all weights of a row "
                f"together; saliency is {self.saliency}: leave it at 1, or take another constraint"
            )
        if not 0 < self.energy <= 1:
            raise BadRequest(f"energy is {self.energy}; it must be above 0 and at most 1")

    @classmethod
    def presets(cls) -> Mapping[str, AllButOne]:
        """Gives settings for SD 1.x that we chose, and those measured for the bundled model."""
        return {
            "reconstructed-sd14-object": cls(),
            "reconstructed-sd14-content": cls(parameters="not_cross_attention_paper", steps=1000),
            "emoji": cls(**SMALL | {"keep_weight": 15.0}),
        }

    def requires_anchor(self) -> bool:
        """In the mode that replaces, unless the concept is left out of its wordings."""
        return self.mode == "replace" and self.target != "prompt_without_concept"

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Samples the pool with the frozen model, then trains on it."""
        run = GradientRun(self, model, request, generator=generator, monitor=monitor)
        pool = run.pool()
        with run.training(self.parameters) as edit:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                visits = pool.drawn(self.batch, generator)
                term = self._guidance_term(run, edit, visits)
                keep = run.keep(self.batch, generator)
                return self._losses(run, visits, term, keep)

            run.train(losses, edit.parameters, hooks=self._hooks(run, edit))
            patches = edit.patches()
        return run.result(patches)

    def _guidance_term(
        self, run: GradientRun, edit: Trained, visits: Pool
    ) -> Float[Tensor, "n c h w"]:
        """Gives the guidance term g that the concept's prompt is to have."""
        e_0, e_c = visits.unconditional, visits.conditional
        if self.mode == "negate":
            return -self.negative_guidance * (e_c - e_0)
        if self.mode == "suppress" or not any(wording.anchor for wording in run.wordings):
            return torch.zeros_like(e_0)
        with edit.teacher():
            anchors = run.anchors[visits.prompt_index]
            e_a = run.denoiser.predict(visits.latents, visits.times, anchors)
        return e_a - e_0

    def _losses(
        self, run: GradientRun, visits: Pool, term: Tensor, keep: list[Target]
    ) -> dict[str, Tensor]:
        """Compares guidance, the empty prompt where it may drift, and kept prompts in one pass."""
        prompts, e_0 = run.prompts[visits.prompt_index], visits.unconditional
        guidance = Target("guidance", 1.0, visits.latents, visits.times, prompts, term)
        empty = run.empty(len(visits))
        drift = Target("drift", self.drift_weight, visits.latents, visits.times, empty, e_0)
        free = self.constraint != "projection"
        now_c, *rest = predicted(run.denoiser, [guidance, *([drift] if free else []), *keep])
        now_0 = rest.pop(0) if free else e_0
        terms = {"guidance": guidance.error(now_c - self._detached(now_0))}
        if self.constraint == "penalty":
            terms["drift"] = drift.error(now_0)
        for target, prediction in zip(keep, rest, strict=True):
            terms[target.name] = target.error(prediction)
        return terms

    def _detached(self, unconditional: Tensor) -> Tensor:
        return unconditional.detach() if self.detach_unconditional else unconditional

    def _hooks(self, run: GradientRun, edit: Trained) -> _Projection | None:
        if self.constraint != "projection":
            return None
        return _Projection(edit, orthonormal_rows(run.empty(1).rows[0].cpu(), energy=self.energy))


class _Projection(Plain):
    """Keeps changes out of the directions of the empty prompt, after every step."""

    def __init__(self, edit: Trained, basis: Float[Tensor, "rank dim"]) -> None:
        self._edit, self._basis = edit, basis

    def after_step(self) -> None:
        for key, change in self._edit.changes().items():
            allowed = without_directions(change, self._basis)
            self._edit.parameters[key].data.copy_(self._edit.originals[key] + allowed)
