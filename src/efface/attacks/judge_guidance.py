"""Drawing led by a judge: each step moves towards pictures in which it sees the concept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Access, Attack, Paper
from efface.diffusion.pictures import pixels_of
from efface.diffusion.sampling import Visit
from efface.diffusion.trajectories import drawn_latents
from efface.errors import BadRequest, require_positive
from efface.revival.attempts import Attempt
from efface.revival.redrawing import continued
from efface.revival.target import Look, Target

if TYPE_CHECKING:
    from efface.contracts import Attempts

__all__ = ["JudgeGuidance"]


@dataclass(frozen=True, kw_only=True)
class JudgeGuidance(Attack):
    """Moves latents up the gradient of a judge's log-probability for the predicted picture.

    No prompt and no guidance by one: whatever the edited model can still draw is looked for from
    outside. The gradient goes through the denoiser, the decoder and the judge. It can also fool the
    judge: the last steps are not led, so that the denoiser has the last word, and whether the
    second judge agrees is in the record. Passes of the decoder and the judge are not counted as
    network evaluations.

    Differs from the paper:
        There the classifier reads noised latents; here the judge reads the predicted picture.
    """

    name: ClassVar[str] = "judge_guidance"
    paper: ClassVar[Paper | None] = Paper(
        "When Are Concepts Erased From Diffusion Models?", "2505.17013", 2025
    )
    access: ClassVar[Access] = "gradients"

    scales: tuple[float, ...] = (0.1, 0.2, 0.3)
    """How far each step moves the latents, as a share of the noise in them."""
    until: float = 0.8
    """Share of the steps that are led, the first ones."""

    def __post_init__(self) -> None:
        require_positive(self, "until")
        if not self.scales:
            raise BadRequest("scales is empty; give at least one, such as 0.1")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Draws each open trial with each scale, always from the same first noise."""
        logits = target.knowledge.logits
        if logits is None:
            raise BadRequest(
                "judge_guidance follows a judge's gradient and this judge gives none; give one "
                "with `logits(images, concept)`, or leave the attack out"
            )
        trials = target.trials
        opened = sorted(range(len(trials)))
        # Not by the trials' seeds: without a prompt, trials of one seed would be one picture.
        start = drawn_latents(target.denoiser, len(trials), generator)
        led = sum(self.leads(step, target.steps) for step in range(target.steps))
        for scale in self.scales:
            lead = _Lead(self, target, logits, scale)
            read = target.denoiser.conditions([""] * len(opened))
            clean = continued(target, start[opened], read, guided=False, steer=lead)
            still = yield [
                Attempt(
                    trial=trial,
                    prompt="",
                    seed=trials[trial].seed,
                    spent=target.steps + led,
                    clean=clean[place].cpu(),
                    note=f"led by the judge, {scale:g} a step",
                )
                for place, trial in enumerate(opened)
            ]
            opened = sorted(still)

    def leads(self, step: int, total: int) -> bool:
        """Says whether a step is led."""
        return step < self.until * total


@dataclass(eq=False)
class _Lead:
    """Moves latents before each pass to where the predicted picture is liked better."""

    settings: JudgeGuidance
    target: Target
    logits: Look
    scale: float

    def __call__(self, visit: Visit) -> Visit:
        if visit.prediction is not None or not self.settings.leads(visit.index, visit.total):
            return visit
        process = self.target.denoiser.process
        times = visit.time.to(torch.float64).expand(len(visit.latents))
        weight = process.noised(
            torch.zeros_like(visit.latents), torch.ones_like(visit.latents), times
        )
        ascent = self._gradient(visit, times)
        size = ascent.flatten(1).norm(dim=1).clamp(min=1e-12) / ascent[0].numel() ** 0.5
        step = self.scale * weight * ascent / size[:, None, None, None]
        # As long as before: the network knows latents of one length at each time.
        moved, length = visit.latents + step, visit.latents.flatten(1).norm(dim=1)
        kept = length / moved.flatten(1).norm(dim=1).clamp(min=1e-12)
        return replace(visit, latents=moved * kept[:, None, None, None])

    def _gradient(self, visit: Visit, times: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Differentiates what the judge says to the predicted picture by the latents."""
        denoiser = self.target.denoiser
        with torch.enable_grad():
            latents = visit.latents.detach().requires_grad_()
            prediction = denoiser.predict(latents, times, visit.conditions)
            clean = denoiser.process.clean(latents, prediction, times)
            pixels = pixels_of(self.target.model, clean).cpu()
            seen = torch.nn.functional.logsigmoid(self.logits(pixels, self.target.concept))
            (gradient,) = torch.autograd.grad(seen.sum(), latents)
        return gradient
