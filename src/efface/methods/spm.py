"""Rank-1 membranes that open for prompts of the concept and can be stacked (SPM, CVPR 2024)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from efface.contracts import Monitor, Paper, TextToImage, silent
from efface.diffusion.losses import Target, squared_errors
from efface.errors import BadRequest
from efface.hosts.conditions import Conditions
from efface.runs.gating import GateKind, GateRule, OpensBy, Released, Unconditional, gate_for
from efface.runs.gradient_eraser import SMALL, GradientEraser, Trainable
from efface.runs.gradient_runs import GradientRun

if TYPE_CHECKING:
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.adapters import Adapters
    from efface.deltas.results import ErasureResult
    from efface.diffusion.trajectories import Pool

__all__ = ["Spm"]


@dataclass(frozen=True, kw_only=True)
class Spm(GradientEraser):
    """Trains a rank-1 layer beside every layer of the attention blocks, one set per concept.

    The weights themselves never change. A membrane moves the concept's prediction away from the
    concept as ESD does (section 3.2); predictions for random embeddings of the concept's size are
    anchored to what they were (latent anchoring, section 3.3). When drawing, each membrane opens as
    far as the prompt is like its concept (facilitated transport, section 3.4), every sample by its
    own prompt. Membranes of many concepts stand side by side, as one pair of products, and work on
    other models of the same layout.

    Differs from the paper:
        The gate multiplies the membrane; the released code multiplies both factors, which squares
        it, and adds up factors across concepts, which mixes them (``gate="official"`` squares it).
        Likeness is measured on rows of text instead of token ids, and per sample, so that the
        prediction without a prompt has its own; with ``unconditional="same"`` it gets the prompt's,
        as in the released code, where a pipeline guides within one batch. FLUX.1 does not, so it
        has no effect there. ``calibrated`` is ours: a membrane stays shut for kept prompts, bit for
        bit, and is wide open for the concept's own wordings. ``opens_by="closest_part"`` is ours.
        Latents come from the frozen model with its predictions; ``latents="student"`` is the
        paper's. The query is at the sampler's own times (the released code is 33 to 42 steps off).
        Latents have the model's own size, where the released code draws smaller ones; the step size
        falls from the first step on, without its 500 steps of warm-up.
        Anchors are drawn without the published rejection, which at these widths rejects nothing;
        ``anchors_from="kept"`` anchors real prompts. The released code lays them out so that half
        of what counts is the empty prompt (``anchors_unconditional=0.5``); the paper does not.
        By default every wording of a concept is erased; the published presets take its names alone
        (``wordings="names"``). ``keep_weight`` is ours.
    """

    name: ClassVar[str] = "spm"
    paper: ClassVar[Paper] = Paper(
        "One-dimensional Adapter to Rule Them All: Concepts, Diffusion Models and Erasing "
        "Applications",
        "2312.16145",
        2024,
    )
    edits: ClassVar[frozenset[str]] = frozenset({"unet", "transformer"})
    families: ClassVar[frozenset[str]] = frozenset(
        {"sd1", "sd2", "sdxl", "sd3", "flux", "auraflow", "chroma", "flux2klein", "wan"}
    )
    """Those in which a word's row stands at the same place in every prompt of its length."""
    revision: ClassVar[int] = 2

    rank: int = 1
    """Rank of each membrane."""
    negative_guidance: float = 1.0
    """eta: how far past the anchor's prediction the target goes."""
    anchoring: float = 1000.0
    """lambda: weight of latent anchoring."""
    anchors: int = 4
    """Random embeddings per latent that are anchored; 0: none."""
    anchors_from: Literal["noise", "kept"] = "noise"
    """What is anchored: random embeddings of the concept's size, or kept prompts."""
    anchors_unconditional: float = 0.0
    """Share of the anchors of each latent that are the empty prompt, so that the prediction without
    a prompt is held; 0.5 in the released code."""
    gate: GateKind = "linear"
    """How membranes open when drawing: for alike prompts, squared as released, or always."""
    opens_by: OpensBy = "whole_prompt"
    """What of a prompt must be like the concept: the whole, as in the paper, or also any one row,
    so that no words around a concept's name shut its membrane."""
    unconditional: Unconditional = "own"
    """Under guidance: whether the prediction without the prompt opens them by its own text or as
    the prompt does."""
    calibrated: bool = False
    """Whether likeness counts from that of kept prompts to that of the concept's own wordings."""
    latents: Literal["base", "student"] = "base"
    """Whose trajectories give the latents: the frozen model's, or those of the one in training, for
    which there is no pool."""
    sampling_steps: int = 30
    """Denoising steps of a trajectory."""
    trajectories: int = 32
    """Trajectories of the frozen model in the pool; no effect with the student's latents."""
    steps: int = 3000
    """Optimiser steps. More erase deeper and disturb the rest more."""
    learning_rate: float = 1e-4
    """Step size of the optimiser."""
    batch: int = 1
    """Latents per step."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the step size changes; the paper restarts the cosine three times."""
    optimiser: Literal["adam", "adamw"] = "adamw"
    """Adam, or AdamW with weight_decay."""
    weight_decay: float = 1e-2
    """Pull of the weights to zero, of adamw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1 or self.anchors < 0 or self.anchoring < 0:
            raise BadRequest("rank must be at least 1, anchors and anchoring not negative")
        if not 0 <= self.anchors_unconditional <= 1:
            raise BadRequest(
                f"anchors_unconditional is {self.anchors_unconditional}; it is a share, of 0 to 1"
            )

    @classmethod
    def presets(cls) -> Mapping[str, Spm]:
        """Gives the published settings, and those measured for the bundled model."""
        return {
            "paper-sd14": cls(wordings="names", latents="student"),
            "released-sd14": cls(
                wordings="names",
                latents="student",
                gate="official",
                unconditional="same",
                anchors_unconditional=0.5,
            ),
            "emoji": cls(
                **SMALL
                | {
                    "batch": 8,
                    "keep_batch": 10,
                    "learning_rate": 1e-2,
                    "weight_decay": 0.0,
                    "calibrated": True,
                    "opens_by": "closest_part",
                    "anchors": 1,
                    "anchoring": 30.0,
                    "keep_weight": 3.0,
                }
            ),
        }

    def trainable(self, concepts: int = 1) -> Trainable:
        """Layers beside every layer of the attention blocks."""
        return Trainable("attention_blocks", self.rank * concepts)

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Samples the pool with the frozen model, then trains all membranes at once."""
        run = GradientRun(self, model, request, generator=generator, monitor=monitor)
        rule = GateRule(
            kind=self.gate,
            calibrated=self.calibrated,
            unconditional=self.unconditional,
            opens_by=self.opens_by,
        )
        rule.check(run.denoiser.host)
        pool = run.pool() if self.latents == "base" else None
        role, membranes = self.trainable().role, len(request.erasures)
        with run.adapting(role, rank=self.rank, membranes=membranes) as adapters:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                if pool is None:
                    adapters.gates = None
                    visits = run.fresh(adapters, self.batch, generator)
                else:
                    visits = pool.drawn(self.batch, generator)
                anchored = self._anchored(run, adapters, visits, generator)
                targets = [self._erase(run, adapters, visits), *anchored]
                targets += run.keep(self.batch, generator)
                run.open_membranes(adapters, targets, generator)
                return squared_errors(run.denoiser, targets)

            run.train(losses, adapters.parameters, hooks=Released(adapters))
            patches = adapters.patches()
        began = time.perf_counter()
        gate = gate_for(
            run.denoiser,
            run.wordings,
            run.owners,
            request.keep,
            rule=rule,
            generator=run.draws["gate"],
        )
        told: dict[str, Any] = {"gate_seconds": time.perf_counter() - began}
        told |= {} if gate is None else {"gate_floor": gate.floor.tolist()}
        return run.result(patches, gate=gate, **told)

    def _erase(self, run: GradientRun, adapters: Adapters, visits: Pool) -> Target:
        """Leads the concept's prompt away from the concept (section 3.2)."""
        eta, e_n, e_c = self.negative_guidance, visits.unconditional, visits.conditional
        if any(wording.anchor for wording in run.wordings):
            with adapters.teacher():
                anchors = run.anchors[visits.prompt_index]
                e_n = run.denoiser.predict(visits.latents, visits.times, anchors)
        target = e_n - eta * (e_c - e_n)
        prompts, owners = run.prompts[visits.prompt_index], run.owners[visits.prompt_index]
        return Target("erase", 1.0, visits.latents, visits.times, prompts, target, owners)

    def _anchored(
        self, run: GradientRun, adapters: Adapters, visits: Pool, generator: torch.Generator
    ) -> list[Target]:
        """Holds the predictions for other embeddings, on the same latents (section 3.3)."""
        if self.anchors == 0 or self.anchoring == 0:
            return []
        which = torch.arange(len(visits)).repeat_interleave(self.anchors)
        latents, times = visits.latents[which], visits.times[which]
        if self.anchors_from == "kept":
            count = len(run.kept_wordings)
            anchors = run.kept_prompts(torch.randint(count, (len(which),), generator=generator))
        else:
            anchors = _noises(run.prompts[visits.prompt_index[which]], generator)
        if without := round(self.anchors_unconditional * self.anchors):
            place = torch.arange(len(which))
            blank = place % self.anchors < without
            anchors = Conditions.joined([anchors, run.empty(1)])
            anchors = anchors[place.where(~blank, len(which))]
        with adapters.teacher():
            unedited = run.denoiser.predict(latents, times, anchors)
        return [Target("anchor", self.anchoring, latents, times, anchors, unedited)]


def _noises(like: Conditions, generator: torch.Generator) -> Conditions:
    """Draws embeddings in random directions, 0.8 to 1.2 times as long as the given ones."""

    def one(rows: Tensor) -> Tensor:
        drawn = torch.randn(rows.shape, generator=generator).to(rows)
        share = 0.8 + 0.4 * torch.rand(len(rows), generator=generator).to(rows)
        length = share * rows.flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1)
        noise: Tensor = drawn * length.reshape(-1, *[1] * (rows.ndim - 1))
        return noise

    pooled = None if like.pooled is None else one(like.pooled)
    return Conditions(one(like.rows), pooled, like.read)
