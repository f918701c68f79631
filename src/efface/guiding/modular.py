"""Guides as guiders of diffusers' modular pipelines, which are experimental there and here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from diffusers.modular_pipelines.modular_pipeline import BlockState
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Guide
from efface.diffusion.denoising import Denoiser
from efface.diffusion.noise import guided
from efface.diffusion.sampling import Visit
from efface.errors import BadRequest
from efface.guiding.course import Course, GuidedRun, refuse_unfit
from efface.hosts.conditions import Conditions

__all__ = ["ROWS", "GuideGuider"]

ROWS = ("prompt_embeds", "encoder_hidden_states")
"""What modular pipelines call the rows of text."""
POOLED = ("text_embeds", "pooled_prompt_embeds", "pooled_projections")
"""What they call the pooled row."""


class GuideGuider(BaseGuidance):
    """One guide that combines predictions, as a guider: ``pipeline.update_components(guider=...)``.

    It predicts what the engine predicts, branch by branch instead of in one batch. A guider is made
    for one run of one list of prompts: what it reads is encoded when the run begins.

    Args:
        guide: one with ``combines``; others work in efface's own loop, or by
            `efface.guiding.callbacks`.
        pipe: a pipeline with the same networks, whose text encoders read the guide's texts.
        prompts: of the run, in order.
        guidance_scale: of classifier-free guidance.
        experimental: must be true; diffusers may change what guiders are with any release.

    Raises:
        BadRequest: the guide does not combine predictions, or ``experimental`` is not set.
    """

    _input_predictions: ClassVar[list[str]] = ["pred_uncond", "pred_cond"]

    def __init__(
        self,
        guide: Guide,
        pipe: Any,
        prompts: Sequence[str],
        *,
        guidance_scale: float = 7.5,
        experimental: bool = False,
    ) -> None:
        if not experimental:
            raise BadRequest(
                "diffusers' modular guiders are experimental and may change with any release; "
                "pass experimental=True, or draw with efface.guided"
            )
        if not guide.combines:
            raise BadRequest(
                f"{guide.name} does not combine predictions, which is what guiders do; draw with "
                "efface.guided"
            )
        super().__init__()
        self.register_to_config(guide=guide.name, guidance_scale=guidance_scale)
        self._guide, self._scale = guide, guidance_scale
        texts = [prompts] if isinstance(prompts, str) else prompts
        self._denoiser, self._prompts = Denoiser(pipe), tuple(texts)
        self._run: GuidedRun | None = None
        self._course: Course | None = None
        self._off = ExitStack()

    @property
    def num_conditions(self) -> int:
        """Counts the batches of the present step."""
        return len(self._branches())

    @property
    def is_conditional(self) -> bool:
        """Says whether the batch that was prepared last is the prompts'."""
        return bool(self._branches()[max(self._count_prepared, 1) - 1] == "pred_cond")

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        """Begins a run at its first step."""
        super().set_state(step, num_inference_steps, timestep)
        if step == 0 or self._run is None:
            conditions = self._denoiser.conditions(self._prompts)
            self._run = GuidedRun(
                self._denoiser, self._prompts, num_inference_steps, self._scale, conditions
            )
            refuse_unfit([self._guide])
            self._course = self._guide.begin(self._run)

    def prepare_inputs(self, data: Mapping[str, tuple[Any, Any]]) -> list[BlockState]:
        """Gives one batch for the empty prompt, one for the prompts, one for each read."""
        return [self._batch(data, branch) for branch in self._branches()]

    def _batch(self, data: Mapping[str, tuple[Any, Any]], branch: str) -> BlockState:
        found = {name: values[branch == "pred_uncond"] for name, values in data.items()}
        read = self._read(branch)
        if read is not None:
            found |= {name: read.rows for name in ROWS if name in data}
            found |= {name: read.pooled for name in POOLED if name in data}
        return BlockState(**{**found, self._identifier_key: branch})

    def prepare_models(self, denoiser: Any) -> None:
        """Takes deltas off for a branch that the base predicts."""
        branch = self._branches()[self._count_prepared]
        super().prepare_models(denoiser)
        number = _number(branch)
        if number is None or self._course is None or self._run is None:
            return
        if not self._course.reads[number].edited:
            self._off.enter_context(self._run.base())

    def cleanup_models(self, denoiser: Any) -> None:
        """Puts deltas back."""
        super().cleanup_models(denoiser)
        self._off.close()

    def forward(self, **predictions: Float[Tensor, "n c h w"]) -> GuiderOutput:
        """Combines the predictions of all branches."""
        conditional = predictions["pred_cond"]
        course, run = self._course, self._run
        reads = {
            number: prediction
            for name, prediction in predictions.items()
            if (number := _number(name)) is not None
        }
        unconditional = predictions.get("pred_uncond")
        plain = conditional
        if unconditional is not None:
            plain = guided(unconditional, conditional, self._scale)
        prediction = plain
        if course is not None and run is not None:
            visit = Visit(
                index=self._step,
                total=self._num_inference_steps,
                time=torch.as_tensor(self._timestep),
                samples=torch.arange(len(conditional)),
                latents=conditional,
                conditions=run.conditions,
                unconditional=unconditional,
                conditional=conditional,
                prediction=plain,
            )
            combined = course.combine(visit, reads)
            prediction = plain if combined is None else combined.to(plain.dtype)
        return GuiderOutput(pred=prediction, pred_cond=conditional, pred_uncond=unconditional)

    def _branches(self) -> list[str]:
        if self._course is None or self._step is None:
            return ["pred_uncond", "pred_cond"]
        wanted = list(self._course.wants(self._step))
        empty = [] if self._course.replaces_empty and 0 in wanted else ["pred_uncond"]
        return [*empty, "pred_cond", *(f"pred_read_{number}" for number in wanted)]

    def _read(self, branch: str) -> Conditions | None:
        number = _number(branch)
        if number is None or self._course is None:
            return None
        return self._course.reads[number].conditions


def _number(branch: str) -> int | None:
    """Gives which read a branch is; None for the two of classifier-free guidance."""
    stem, _, number = branch.rpartition("_")
    return int(number) if stem == "pred_read" else None
