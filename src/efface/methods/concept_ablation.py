"""Fine-tuning a concept to predict what an anchor predicts (Concept Ablation, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from efface.contracts import Monitor, Paper, TextToImage, silent
from efface.diffusion.losses import Target, squared_errors
from efface.hosts.conditions import Conditions
from efface.hosts.families import TRAINABLE
from efface.randomness import noise_like
from efface.runs.gradient_eraser import SMALL, GradientEraser
from efface.runs.gradient_runs import GradientRun

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult
    from efface.training.parameters import Trained

__all__ = ["ConceptAblation"]


@dataclass(frozen=True, kw_only=True)
class ConceptAblation(GradientEraser):
    """Trains the prediction for a concept's prompt to be that for its anchor's prompt.

    "grumpy cat" comes to mean "cat", a painter's name "painting" (section 3.2). Clean latents of
    anchor prompts, drawn by the frozen model, are noised; the prompt that names the concept must
    then predict what the anchor's prompt predicts there (``loss="model"``, equation 5), or the
    very noise (``loss="noise"``, equation 6). For a memorised picture give its caption as the
    concept and a paraphrase as the anchor, and train ``unet``.

    Differs from the paper:
        200 pictures are drawn by DDIM; the paper's 1000 are by DPM-Solver++, of 200 captions. Their
        latents are kept as they are: nothing is decoded, stored as JPEG and encoded again; there is
        no resizing or flipping, and no padding mask. No picture is left out for being too like a
        memorised one.
        The anchor's prompt is the concept's with the anchor in its place, so the pairs need no
        language model and no list of captions.
        The target comes from the frozen model, which cannot drift; ``teacher="current"`` is the
        paper's own, the network in training without gradient.
        The mean squared error is over channels too, a quarter of the paper's, which sums them: its
        prior of weight 1 and its limit of 1 on the gradient are 0.25 in the published settings.
        The paper's prior preservation asks for the very noise on the anchor's captions. Here it is
        ``keep_weight``, which holds the frozen model's predictions for the prompts that the request
        keeps, or for the empty prompt alone where it keeps none; keep the anchor as well to hold
        it. The begin token's gradient is not cut.
    """

    name: ClassVar[str] = "concept_ablation"
    paper: ClassVar[Paper] = Paper(
        "Ablating Concepts in Text-to-Image Diffusion Models", "2303.13516", 2023
    )
    edits: ClassVar[frozenset[str]] = frozenset({"unet", "transformer"})
    families: ClassVar[frozenset[str]] = TRAINABLE
    revision: ClassVar[int] = 2

    parameters: Literal["key_value", "cross_attention", "self_attention", "attention", "unet"] = (
        "key_value"
    )
    """Which weights are trained: the paper's cross-attn (key_value), attn (attention) for broad
    content, and full-weight (unet) for memorised pictures, among others."""
    loss: Literal["model", "noise"] = "model"
    """What the concept's prompt must predict: the anchor's prediction, or the noise itself."""
    teacher: Literal["frozen", "current"] = "frozen"
    """Who predicts for the anchor: the unedited model, or the one in training."""
    steps: int = 100
    """Optimiser steps. More erase deeper and disturb the rest more."""
    learning_rate: float = 1.6e-5
    """Step size of the optimiser."""
    batch: int = 8
    """Latents per step."""
    trajectories: int = 200
    """Pictures of anchor prompts that the frozen model draws."""
    sampling_steps: int = 25
    """Denoising steps of a picture."""
    sampling_guidance: float = 6.0
    """Scale of classifier-free guidance of the pictures."""
    optimiser: Literal["adam", "adamw"] = "adamw"
    """Adam, or AdamW with weight_decay."""
    weight_decay: float = 1e-2
    """Pull of the weights to zero, of adamw."""
    clip: float = 1.0
    """Longest gradient over all parameters; longer ones are shortened. 0: no limit."""

    @classmethod
    def presets(cls) -> Mapping[str, ConceptAblation]:
        """Gives the published settings per task, and those measured for the bundled model."""
        paper: dict[str, Any] = {"teacher": "current", "clip": 0.25}
        prior: dict[str, Any] = paper | {"keep_weight": 0.25}
        return {
            "paper-sd14-style": cls(**paper),
            # With a prior the released code doubles the step size.
            "paper-sd14-object": cls(**prior, learning_rate=3.2e-5),
            "paper-sd14-memorised": cls(
                **prior, parameters="unet", steps=400, batch=4, learning_rate=4e-6
            ),
            "paper-sd14-unsafe": cls(
                **prior, parameters="attention", steps=400, learning_rate=6.4e-5
            ),
            "emoji": cls(
                **SMALL
                | {
                    "weight_decay": 0.0,
                    "keep_weight": 30.0,
                    "keep_unconditional": 0.25,
                    "steps": 240,
                }
            ),
        }

    def requires_anchor(self) -> bool:
        """Unless the concept is left out of its wordings."""
        return self.target != "prompt_without_concept"

    def erase(
        self,
        model: TextToImage,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Draws pictures of the anchors with the frozen model, then trains on their latents."""
        run = GradientRun(self, model, request, generator=generator, monitor=monitor)
        clean, prompt_index = run.drawn(run.anchors)

        with run.training(self.parameters) as edit:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                drawn = torch.randint(len(clean), (self.batch,), generator=generator)
                z, own = clean[drawn], prompt_index[drawn]
                times = run.times(self.batch, generator)
                noise = noise_like(z, generator)
                latents = run.denoiser.process.noised(z, noise, times)
                if self.loss == "noise":  # equation 6
                    target = run.denoiser.process.truth(z, noise, times)
                else:  # equation 5
                    target = self._teacher(run, edit, latents, times, run.anchors[own])
                erase = Target("erase", 1.0, latents, times, run.prompts[own], target)
                return squared_errors(run.denoiser, [erase, *run.keep(self.batch, generator)])

            run.train(losses, edit.parameters)
            patches = edit.patches()
        return run.result(patches)

    def _teacher(
        self,
        run: GradientRun,
        edit: Trained,
        latents: Float[Tensor, "n c h w"],
        times: Float[Tensor, " n"],
        anchors: Conditions,
    ) -> Float[Tensor, "n c h w"]:
        """Gives the teacher's prediction for the anchors' prompts."""
        if self.teacher == "current":
            with torch.no_grad():
                return run.denoiser.predict(latents, times, anchors)
        with edit.teacher():
            return run.denoiser.predict(latents, times, anchors)
