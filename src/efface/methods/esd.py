"""Fine-tuning toward the frozen model's negatively guided prediction (ESD, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from efface.contracts import Monitor, Need, Paper, TextToImage, silent
from efface.diffusion.losses import Ask, matched
from efface.diffusion.noise import negated
from efface.runs.gradient_eraser import SMALL, GradientEraser
from efface.runs.gradient_runs import GradientRun

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["Esd"]


@dataclass(frozen=True, kw_only=True)
class Esd(GradientEraser):
    """Trains the prediction for a concept's name to be the one that moves away from the concept.

    The frozen model is asked what it predicts with the name and without; the difference points to
    the concept, and the target goes the other way: ``e_0 - eta (e_c - e_0)`` (section 4.1, equation
    7). No pictures are needed. Cross-attention alone (ESD-x) acts when the name is prompted, the
    rest of the network (ESD-u) whatever the wording.

    Differs from the paper:
        Latents come from the frozen model (as in the authors' newer code), each with the targets
        that its sampling computed, so that no teacher runs in training; ``latents="student"``
        samples with the model in training, as the paper does, and asks at the sampler's own times
        (the paper's code told the network 39 to 59 steps too much noise).
        Every wording of the concept and its synonyms is erased, several a step.
        An anchor, or ``target="prompt_without_concept"``, replaces the first ``e_0``: the target
        starts from that prompt's prediction.
        ``erase_from`` is the newer code's: one prompt f loses the concept, and the rest stays. The
        target is ``e_f - eta (e_c - e_0)``, and eta is that code's ``negative_guidance`` itself, 2
        by default and 1 for XL. Without it f is the concept, so that its number is eta plus one.
        ``keep_weight`` is ours: kept prompts hold the frozen model's predictions.
    """

    name: ClassVar[str] = "esd"
    paper: ClassVar[Paper] = Paper("Erasing Concepts from Diffusion Models", "2303.07345", 2023)
    needs: ClassVar[frozenset[Need]] = frozenset({"prompts"})
    edits: ClassVar[frozenset[str]] = frozenset({"unet", "transformer"})
    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl", "sd3", "flux"})

    parameters: Literal[
        "key_value",
        "cross_attention",
        "self_attention",
        "not_cross_attention",
        "not_cross_attention_paper",
        "layers",
        "unet",
    ] = "cross_attention"
    """Which weights are trained: ESD-x-strict, ESD-x, -self, -u, the paper's -u, -all, full."""
    negative_guidance: float = 1.0
    """eta: how far past the unconditional prediction the target goes; 0 maps to it. With an anchor
    or ``erase_from`` it goes as far past their prompt's prediction."""
    latents: Literal["base", "student"] = "base"
    """Whose trajectories give the latents: the frozen model's, or those of the one in training, for
    which there is no pool, so that ``trajectories`` has no effect."""
    erase_from: str = ""
    """Prompt that loses the concept; empty: the concept's own wordings do. For what the newer code
    does there by default, set ``negative_guidance`` to 2, or to 1 for XL."""
    steps: int = 200
    """Optimiser steps. More erase deeper and disturb the rest more."""
    learning_rate: float = 5e-5
    """Step size of the optimiser."""
    batch: int = 1
    """Latents per step."""

    @classmethod
    def presets(cls) -> Mapping[str, Esd]:
        """Gives the published settings, and those measured for the bundled model."""
        paper = cls(latents="student", steps=1000, learning_rate=1e-5)
        return {
            "paper-sd14-style": paper,
            "paper-sd14-object": cls(
                latents="student",
                steps=1000,
                learning_rate=1e-5,
                parameters="not_cross_attention_paper",
            ),
            "released-sd-2025": cls(),
            "released-sdxl-2025": cls(
                negative_guidance=0.0, learning_rate=2e-4, sampling_guidance=2.0
            ),
            "emoji": cls(**SMALL | {"parameters": "key_value", "keep_weight": 30.0}),
        }

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
        pool = run.pool() if self.latents == "base" else None
        based = any(wording.anchor for wording in run.wordings)
        instead = run.denoiser.conditions([self.erase_from]) if self.erase_from else None

        with run.training(self.parameters) as edit:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                if pool is None:
                    some = run.fresh(edit, self.batch, generator)
                else:
                    some = pool.drawn(self.batch, generator)
                asked, base = run.prompts[some.prompts], some.unconditional
                if instead is not None:
                    asked = instead.repeated(self.batch)
                if based or instead is not None:
                    start = asked if instead is not None else run.anchors[some.prompts]
                    with edit.teacher():
                        base = run.denoiser.predict(some.latents, some.times, start)
                wanted = negated(base, some.unconditional, some.conditional, self.negative_guidance)
                erase = Ask("erase", 1.0, some.latents, some.times, asked, wanted)
                return matched(run.denoiser, [erase, *run.keep(self.batch, generator)])

            run.train(losses, edit.parameters)
            patches = edit.patches()
        return run.result(patches)
