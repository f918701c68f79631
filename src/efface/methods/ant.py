"""Reversed guidance in the later steps, early structure kept (ANT, ACM MM 2025)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.closed_form.fusion import fused
from efface.contracts import Monitor, Paper, TextToImage, silent
from efface.diffusion.losses import Target, squared_errors
from efface.errors import BadRequest
from efface.randomness import derive
from efface.runs.gating import Released
from efface.runs.gradient_eraser import SMALL, GradientEraser, Trainable
from efface.runs.gradient_runs import GradientRun
from efface.training.gradients import intersected, saliency_masks
from efface.training.hooks import Masked

if TYPE_CHECKING:
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.adapters import Adapters
    from efface.deltas.results import ErasureResult
    from efface.diffusion.trajectories import Pool
    from efface.training.parameters import Trained

__all__ = ["Ant"]


@dataclass(frozen=True, kw_only=True)
class Ant(GradientEraser):
    """Turns the concept's guidance around once a picture's structure stands.

    Early steps decide structure, later ones what it becomes. For the concept's prompt the
    prediction stays what it was in the first steps and is reversed, ``e_0 - eta (e_c - e_0)``,
    afterwards; predictions without a prompt stay throughout. Only weights that several wordings
    and noises all find steep are trained (the augmented saliency mask). No anchor is needed.

    Differs from the paper [its text beyond the introduction could not be read again] and the code:
        Early and late are counted from noise on, as the paper means; the released code for one
        concept counts from the clean end (``preserve_side="late"``). Its mask keeps the half of the
        weights that matter least (``mask_keeps="bottom"``), is computed while an optimiser with a
        huge step destroys the network, and its unconditional terms have no gradient; here the mask
        keeps the most salient, of the unedited network, and those terms work.
        Early and late latents are drawn by themselves from the frozen model's trajectories, whose
        sampling gives all targets; in the released code both start from the same noise. Maps differ
        in the concept's wordings and in what is drawn.
        ``turned_from="anchor"`` and ``keep_weight`` are ours. ``several="fused"`` trains its
        low-rank layers on keys and values alone, which is all that the published fusion uses of
        them, on plain predictions instead of guided ones, and fuses in float64 with a ridge.
    """

    name: ClassVar[str] = "ant"
    paper: ClassVar[Paper] = Paper(
        "Set You Straight: Auto-Steering Denoising Trajectories to Sidestep Unwanted Concepts",
        "2504.12782",
        2025,
    )
    revision: ClassVar[int] = 2

    parameters: Literal["unet", "cross_attention", "key_value", "not_cross_attention"] = "unet"
    """Which weights the mask chooses from; ``several="fused"`` has no mask, and ignores it."""
    before: float = 0.14
    """Share of the steps, from noise on, that keep what they did; the paper's t' of 50 steps."""
    several: Literal["together", "fused"] = "together"
    """How several concepts go: in one training, or each into low-rank layers of its own beside keys
    and values, which are then fused in closed form."""
    rank: int = 64
    """Rank of each concept's low-rank layers."""
    fusion_scale: float = 4.3
    """Factor of the low-rank layers when they are fused."""
    fusion_keep: float = 1.0
    """Weight of the kept prompts' rows in the fusion, both sides being means."""
    fusion_ridge: float = 1e-3
    """Pull toward the unedited weights in the fusion, in squared embedding norm."""
    preserve_side: Literal["early", "late"] = "early"
    """Which side of that point is kept; ``late`` is the released code's reading."""
    negative_guidance: float = 1.0
    """eta: how far the guidance is turned around."""
    turned_from: Literal["unconditional", "anchor"] = "unconditional"
    """From where: from what is predicted without a prompt, so all that the prompt names is turned
    away from and an anchor has no effect, or for the anchor (see ``target``), so that what both
    name stays."""
    early_weight: float = 1.0
    """a: weight of what must stay at the preserved steps."""
    unconditional_weight: float = 0.5
    """b: weight of the predictions without a prompt."""
    maps: int = 4
    """Saliency maps, each of other wordings and draws; a weight must be in all of them. None are
    made with ``several="fused"``."""
    map_batches: int = 10
    """Batches whose gradients one map adds up."""
    mask_share: float = 0.5
    """Share of each tensor that every map keeps; 1: no mask, nor with ``several="fused"``."""
    mask_keeps: Literal["top", "bottom"] = "top"
    """Whether a map keeps the most salient weights, or the least, as the released code does."""
    steps: int = 250
    """Optimiser steps. More erase deeper and disturb the rest more."""
    learning_rate: float = 5e-4
    """Step size of the optimiser."""
    batch: int = 1
    """Early latents per step, and as many late ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.before < 1:
            raise BadRequest(f"before is {self.before}; it must be between 0 and 1")
        if not 0 < self.mask_share <= 1 or self.maps < 1 or self.map_batches < 1:
            raise BadRequest("mask_share must be in (0, 1], maps and map_batches at least 1")
        if self.early_weight < 0 or self.unconditional_weight < 0:
            raise BadRequest("early_weight and unconditional_weight must not be negative")

    @classmethod
    def presets(cls) -> Mapping[str, Ant]:
        """Gives the published settings, and those measured for the bundled model."""
        return {
            "paper-sd14-content": cls(maps=20),
            # Ten steps for each of 100 concepts.
            "paper-sd14-several": cls(
                several="fused",
                before=0.08,
                early_weight=0.5,
                unconditional_weight=2.5,
                sampling_guidance=7.5,
                optimiser="adamw",
                weight_decay=1e-2,
                steps=1000,
                batch=2,
            ),
            "released-sd14-content": cls(maps=20, preserve_side="late", mask_keeps="bottom"),
            "emoji": cls(
                **SMALL
                | {
                    "target": "anchor",
                    "turned_from": "anchor",
                    "before": 0.05,
                    "early_weight": 0.1,
                    "steps": 240,
                    "batch": 4,
                    "parameters": "key_value",
                    "mask_share": 1.0,
                    "negative_guidance": 2.0,
                    "keep_weight": 30.0,
                    "fusion_scale": 2.0,
                    "fusion_keep": 10.0,
                }
            ),
        }

    def trainable(self, concepts: int = 1) -> Trainable:
        """The chosen weights, or layers beside keys and values that are fused afterwards."""
        if self.several == "fused":
            return Trainable("key_value", self.rank * concepts)
        return Trainable(self.parameters)

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Samples the pool, finds the mask, then trains the weights in it."""
        run = GradientRun(self, model, request, generator=generator, monitor=monitor)
        if self.several == "fused":
            return self._fused(run)
        pool = run.pool()
        early, late = self._sides(pool)
        with run.training(self.parameters) as edit:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                targets = self._targets(run, edit, early, late, generator)
                keep = run.keep(self.batch, generator)
                return squared_errors(run.denoiser, [*targets, *keep])

            maps = self._maps(run, edit, early, late)
            masks = intersected(maps) if self.mask_share < 1 else None
            hooks = Masked(edit.parameters, masks, edit.originals) if masks else None
            run.train(losses, edit.parameters, hooks=hooks)
            patches = edit.patches()
        marked = sum(int(mask.sum()) for mask in (masks or {}).values())
        return run.result(patches, weights_marked=marked)

    def _sides(self, pool: Pool) -> tuple[Pool, Pool]:
        """Splits a pool into what is preserved and what is reversed."""
        turn = min(max(1, round(self.before * self.sampling_steps)), self.sampling_steps - 1)
        early, late = pool.between(0, turn), pool.between(turn, self.sampling_steps)
        return (early, late) if self.preserve_side == "early" else (late, early)

    def _fused(self, run: GradientRun) -> ErasureResult:
        """Trains low-rank layers of every concept, then fuses them into one edit."""
        early, late = self._sides(run.pool())
        role, membranes = self.trainable().role, len(run.request.erasures)
        with run.adapting(role, rank=self.rank, membranes=membranes) as adapters:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                targets = self._targets(run, adapters, early, late, generator)
                targets += run.keep(self.batch, generator)
                run.open_membranes(adapters, targets, generator)
                return squared_errors(run.denoiser, targets)

            run.train(losses, adapters.parameters, hooks=Released(adapters))
            apart = adapters.patches()
        read = [run.prompts.rows[run.owners == each] for each in range(len(run.request.erasures))]
        kept = run.kept_prompts(torch.arange(len(run.kept_wordings)))
        patches = fused(
            apart,
            read,
            torch.cat([kept.rows, run.empty(1).rows]),
            scale=self.fusion_scale,
            keep=self.fusion_keep,
            ridge=self.fusion_ridge,
        )
        return run.result(patches)

    def _targets(
        self,
        run: GradientRun,
        edit: Trained | Adapters,
        early: Pool,
        late: Pool,
        generator: torch.Generator,
    ) -> list[Target]:
        """Preserves the prediction early and reverses it late, with the prompt and without."""
        kept, turned = (each.drawn(self.batch, generator) for each in (early, late))
        eta, e_0, e_c = self.negative_guidance, kept.unconditional, kept.conditional
        stay = e_0 + eta * (e_c - e_0)
        e_0, e_c = turned.unconditional, turned.conditional
        if self.turned_from == "anchor":
            with edit.teacher():
                anchors = run.anchors[turned.prompt_index]
                e_0 = run.denoiser.predict(turned.latents, turned.times, anchors)
        away = e_0 - eta * (e_c - e_0)
        a, b = self.early_weight, self.unconditional_weight
        return [
            _prompted(run, "reverse", 1.0, turned, away),
            _prompted(run, "preserve", a, kept, stay),
            _unprompted(run, b, turned),
            _unprompted(run, a * b, kept),
        ]

    def _maps(
        self, run: GradientRun, edit: Trained, early: Pool, late: Pool
    ) -> Iterator[dict[str, Tensor]]:
        """Marks, tensor by tensor, what each map finds salient; no step is taken."""
        seed = run.draws["saliency"].initial_seed()
        for number in range(self.maps):
            total = {key: torch.zeros_like(weight) for key, weight in edit.parameters.items()}
            draws = derive(seed, "map", number)
            own = [each[each.prompt_index % self.maps == number] for each in (early, late)]
            sides = own if all(len(each) for each in own) else [early, late]
            for _ in range(self.map_batches):
                targets = self._targets(run, edit, sides[0], sides[1], draws)
                terms = squared_errors(run.denoiser, targets)
                gradients = torch.autograd.grad(
                    torch.stack([*terms.values()]).sum(), [*edit.parameters.values()]
                )
                for key, gradient in zip(total, gradients, strict=True):
                    total[key] += gradient
            run.session.report("finding salient weights", number + 1, self.maps)
            bottom = self.mask_keeps == "bottom"
            yield saliency_masks(total, self.mask_share, scope="tensor", least=bottom)


def _prompted(run: GradientRun, name: str, weight: float, visits: Pool, target: Tensor) -> Target:
    """Gives a target for the concept's prompts."""
    prompts, owners = run.prompts[visits.prompt_index], run.owners[visits.prompt_index]
    return Target(name, weight, visits.latents, visits.times, prompts, target, owners)


def _unprompted(run: GradientRun, weight: float, visits: Pool) -> Target:
    """Holds the prediction without a prompt."""
    return Target(
        "unconditional",
        weight,
        visits.latents,
        visits.times,
        run.empty(len(visits)),
        visits.unconditional,
        run.owners[visits.prompt_index],
    )
