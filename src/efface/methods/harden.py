"""Training against those who would relearn an erased concept, after any erasure (ours)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from efface.contracts import Monitor, Paper, TextToImage, silent
from efface.deltas.application import unedited
from efface.diffusion.losses import Target, predicted
from efface.diffusion.noised import noised
from efface.errors import require_positive
from efface.runs.gradient_eraser import SMALL, GradientEraser
from efface.runs.gradient_runs import GradientRun
from efface.training.attackers import Attackers
from efface.training.relearning import Relearning
from efface.training.retaining import RetainedSpace

if TYPE_CHECKING:
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["Harden"]


@dataclass(frozen=True, kw_only=True)
class Harden(GradientEraser):
    """Trains on, so that an attacker with a few pictures of the concept needs more steps.

    It runs after an erasure, as in ``esd+harden``. Pictures of the concept are drawn by the model
    without any edit. Simulated attackers train low-rank layers on them, one step at a time, and
    start over in turn; the model is trained to predict, for the concept's prompts on noised
    pictures of it, what it predicts for the anchor or no prompt, with an attacker's layers in force
    as well as without. Kept prompts hold their predictions, and what gradients of the concept's
    terms have in common with recent gradients of kept prompts is projected out.

    Differs from the paper:
        Of PGU only the idea is taken, from its abstract: after an erasure, updates are projected
        out of the retained space. The paper spans it by activations of retained concepts; here
        recent gradients of kept prompts do (``directions``), and Adam moves weights otherwise than
        along the projected gradient. Attackers are ours; gradients do not go through their steps.
    """

    name: ClassVar[str] = "harden"
    paper: ClassVar[Paper] = Paper(
        "Projected Gradient Unlearning for Text-to-Image Diffusion Models: Defending Against "
        "Concept Revival Attacks",
        "2604.21041",
        2026,
    )
    edits: ClassVar[frozenset[str]] = frozenset({"unet"})
    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl"})

    parameters: Literal[
        "key_value", "cross_attention", "attention", "not_cross_attention", "layers", "unet"
    ] = "unet"
    """Which weights are trained."""
    attackers: int = 3
    """Attackers at a time, of different ages; each takes one step per step."""
    attack_role: Literal["key_value", "cross_attention", "attention", "layers"] = "attention"
    """Layers that attackers train low-rank ones beside."""
    attack_rank: int = 4
    """Rank of their layers."""
    attack_steps: int = 40
    """Steps until an attacker starts over."""
    attack_rate: float = 3e-3
    """Step size of attackers."""
    attack_batch: int = 8
    """Pictures per step of each attacker."""
    attacked_weight: float = 1.0
    """Weight of predictions with an attacker's layers in force."""
    erase_weight: float = 1.0
    """Weight of predictions without them."""
    directions: int = 8
    """Recent gradients of kept prompts whose span is projected out of the others; 0: none. Each
    takes the memory of what is trained."""
    steps: int = 200
    """Optimiser steps. More harden further and disturb the rest more."""
    learning_rate: float = 5e-5
    """Step size of the optimiser."""
    batch: int = 4
    """Latents per step, with attackers and without."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            self, "attackers", "attack_rank", "attack_steps", "attack_rate", "attack_batch"
        )

    @classmethod
    def presets(cls) -> Mapping[str, Harden]:
        """Gives settings that suit the bundled model's size; `benchmarks.harden` measures them."""
        small: dict[str, Any] = SMALL | {
            "trajectories": 16,
            "keep_trajectories": 32,
            "keep_batch": 10,
            "keep_weight": 60.0,
            "steps": 50,
            "learning_rate": 4e-4,
            "attackers": 2,
            "attack_steps": 25,
            "directions": 0,
        }
        return {"emoji": cls(**small)}

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Draws pictures with the unedited model, then trains against attackers who have them."""
        run = GradientRun(self, model, request, generator=generator, monitor=monitor)
        with unedited(model):
            clean, followed = run.drawn(run.prompts)
        attack = Relearning(
            role=self.attack_role,
            rank=self.attack_rank,
            steps=self.attack_steps,
            learning_rate=self.attack_rate,
            batch=self.attack_batch,
        )
        draws = run.draws["adapters"]
        attackers = Attackers(model, attack, self.attackers, generator=draws)
        prompts, anchors = run.prompts[followed], run.anchors[followed]
        with run.training(self.parameters) as edit:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                attackers.step(run.denoiser, clean, prompts, generator)
                which = torch.randint(len(clean), (self.batch,), generator=generator)
                times = run.times(self.batch, generator)
                rows, _ = noised(run.denoiser, clean[which], times, which, generator)
                with edit.teacher():
                    wanted = run.denoiser.predict(rows.latents, times, anchors[which])
                given = (rows.latents, times, prompts[which], wanted)
                targets = [
                    Target("attacked", self.attacked_weight, *given),
                    Target("erase", self.erase_weight, *given),
                    *run.keep(self.batch, generator),
                ]
                count = sum(len(target.latents) for target in targets)
                who = torch.full((count,), -1)
                mine = torch.randint(len(attackers), (self.batch,), generator=generator)
                who[: self.batch] = mine
                with attackers.in_force(who):
                    found = predicted(run.denoiser, targets)
                return {
                    target.name: target.error(each)
                    for target, each in zip(targets, found, strict=True)
                }

            hooks = RetainedSpace(self.directions, held="keep") if self.directions else None
            beside = {"attackers": attackers} | ({"retained": hooks} if hooks else {})
            run.train(losses, edit.parameters, hooks=hooks, beside=beside)
            patches = edit.patches()
        return run.result(patches)
