"""Fine-tuning toward the frozen model's negatively guided prediction (ESD, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from efface.contracts import Monitor, Paper, TextToImage, silent
from efface.diffusion.losses import Target, squared_errors
from efface.hosts.families import TRAINABLE
from efface.runs.gradient_eraser import SMALL, GradientEraser
from efface.runs.gradient_runs import GradientRun

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult
    from efface.diffusion.trajectories import Pool
    from efface.hosts.conditions import Conditions

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
        By default every wording of the concept is erased; the published presets take its names
        alone, as the paper's commands do (``wordings="names"``).
        An anchor, or ``target="prompt_without_concept"``, replaces the first ``e_0``: the target
        starts from that prompt's prediction.
        ``erase_from`` is the newer code's: one prompt f loses the concept, and the rest stays.
        Latents are of trajectories of f, the target is ``e_f - eta (e_c - e_0)``, and eta is that
        code's ``negative_guidance`` itself, 2 by default and 1 for XL. Without it f is the concept,
        so that its number is eta plus one.
        ``keep_weight`` is ours: kept prompts hold the frozen model's predictions.
    """

    name: ClassVar[str] = "esd"
    paper: ClassVar[Paper] = Paper("Erasing Concepts from Diffusion Models", "2303.07345", 2023)
    edits: ClassVar[frozenset[str]] = frozenset({"unet", "transformer"})
    families: ClassVar[frozenset[str]] = TRAINABLE
    revision: ClassVar[int] = 2

    parameters: Literal[
        "key_value",
        "cross_attention",
        "self_attention",
        "not_cross_attention",
        "not_cross_attention_paper",
        "not_cross_attention_xl",
        "layers",
        "layers_xl",
        "unet",
    ] = "cross_attention"
    """Which weights are trained: ESD-x-strict, ESD-x, -self, -u, the paper's -u, -u for XL, -all,
    -all for XL, full."""
    negative_guidance: float = 1.0
    """eta: how far past the unconditional prediction the target goes; 0 maps to it. With an anchor
    or ``erase_from`` it goes as far past their prompt's prediction."""
    latents: Literal["base", "student"] = "base"
    """Whose trajectories give the latents: the frozen model's, or those of the one in training, for
    which there is no pool, so that ``trajectories`` has no effect."""
    erase_from: str = ""
    """Prompt that loses the concept; empty: the concept's own wordings do. For what the newer code
    does there by default, set ``negative_guidance`` to 2, or to 1 for XL."""
    null_prompt: Literal["pipeline", "encoded"] = "pipeline"
    """What e_0 reads: what the pipeline's guidance does, which is zeros in XL, or the encoded empty
    prompt, as in the released code for XL."""
    steps: int = 200
    """Optimiser steps. More erase deeper and disturb the rest more."""
    learning_rate: float = 5e-5
    """Step size of the optimiser."""
    batch: int = 1
    """Latents per step."""

    @classmethod
    def presets(cls) -> Mapping[str, Esd]:
        """Gives the published settings, and those measured for the bundled model."""
        paper: dict[str, Any] = {
            "wordings": "names",
            "latents": "student",
            "steps": 1000,
            "learning_rate": 1e-5,
        }
        return {
            "paper-sd14-style": cls(**paper),
            "paper-sd14-object": cls(**paper, parameters="not_cross_attention_paper"),
            "released-sd-2025": cls(wordings="names"),
            "released-sdxl-2025": cls(
                wordings="names",
                negative_guidance=0.0,
                learning_rate=2e-4,
                sampling_guidance=2.0,
                null_prompt="encoded",
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
        prompts = run.prompts
        if self.erase_from:
            prompts = run.denoiser.conditions([self.erase_from]).repeated(len(run.wordings))
        pool = run.pool(prompts) if self.latents == "base" else None

        with run.training(self.parameters) as edit:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                if pool is None:
                    visits = run.fresh(edit, self.batch, generator, prompts)
                else:
                    visits = pool.drawn(self.batch, generator)
                with edit.teacher():
                    target = self._target(run, visits)
                read = prompts[visits.prompt_index]
                erase = Target("erase", 1.0, visits.latents, visits.times, read, target)
                return squared_errors(run.denoiser, [erase, *run.keep(self.batch, generator)])

            run.train(losses, edit.parameters)
            patches = edit.patches()
        return run.result(patches)

    def _target(self, run: GradientRun, visits: Pool) -> Float[Tensor, "n c h w"]:
        """Gives what the frozen model says that the network should predict."""
        if self.erase_from:
            return self._without_concept(run, visits)
        if any(wording.anchor for wording in run.wordings):
            return self._from_anchor(run, visits)
        return self._from_nothing(run, visits)

    def _from_nothing(self, run: GradientRun, visits: Pool) -> Float[Tensor, "n c h w"]:
        """Equation 7: away from the concept c, past the prediction without a prompt."""
        eta, e_0, e_c = self.negative_guidance, self._null(run, visits), visits.conditional
        return e_0 - eta * (e_c - e_0)

    def _from_anchor(self, run: GradientRun, visits: Pool) -> Float[Tensor, "n c h w"]:
        """The same from the prediction for the anchor a."""
        eta, e_0, e_c = self.negative_guidance, self._null(run, visits), visits.conditional
        e_a = _predict(run, visits, run.anchors[visits.prompt_index])
        return e_a - eta * (e_c - e_0)

    def _without_concept(self, run: GradientRun, visits: Pool) -> Float[Tensor, "n c h w"]:
        """The newer code's: the prompt f, which the trajectories follow, loses the concept c."""
        eta, e_0, e_f = self.negative_guidance, self._null(run, visits), visits.conditional
        e_c = _predict(run, visits, run.prompts[visits.prompt_index])
        return e_f - eta * (e_c - e_0)

    def _null(self, run: GradientRun, visits: Pool) -> Float[Tensor, "n c h w"]:
        """Gives e_0, the prediction without a prompt."""
        if self.null_prompt == "pipeline":
            return visits.unconditional
        # A blank has the tokens of the empty prompt, and no pipeline puts zeros in its place.
        return _predict(run, visits, run.denoiser.conditions([" "]).repeated(len(visits)))


def _predict(run: GradientRun, visits: Pool, conditions: Conditions) -> Float[Tensor, "n c h w"]:
    return run.denoiser.predict(visits.latents, visits.times, conditions)
