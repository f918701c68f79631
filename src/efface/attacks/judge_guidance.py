"""Drawing led by a judge: each step moves towards pictures in which it sees the concept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Access, Attack, Paper
from efface.diffusion.sampling import Visit
from efface.errors import BadRequest, require_positive
from efface.randomness import noise_like, split
from efface.revival.attempts import Attempt
from efface.revival.drawing import first_noise, with_gradients
from efface.revival.redrawing import continued, cost_of_steps
from efface.revival.target import Look, Target

if TYPE_CHECKING:
    from efface.contracts import Attempts

__all__ = ["JudgeGuidance"]


@dataclass(frozen=True, kw_only=True)
class JudgeGuidance(Attack):
    """Moves the picture that each step predicts up the gradient of a judge's log-probability.

    It needs no name in the prompt and no picture: whatever the edited model can still draw is
    looked for from outside. The gradient goes through the decoder and the judge, not through the
    denoiser. It can also fool the judge: gradients are averaged over noised copies and early steps
    alone are led, so that the denoiser has the last word, and whether the second judge agrees is in
    the record. Passes of the decoder and the judge are not counted as network evaluations.

    Differs from the paper:
        There the classifier reads noised latents; here the judge reads the predicted picture.
    """

    name: ClassVar[str] = "judge_guidance"
    paper: ClassVar[Paper | None] = Paper(
        "When Are Concepts Erased From Diffusion Models?", "2505.17013", 2025
    )
    access: ClassVar[Access] = "latents"

    scales: tuple[float, ...] = (0.05, 0.1, 0.2)
    """How far each step moves the predicted picture, as a share of its norm."""
    until: float = 0.7
    """Share of the steps that are led, the first ones."""
    copies: int = 2
    """Noised copies of the predicted picture over which the gradient is averaged."""
    blur: float = 0.1
    """Standard deviation of that noise, in latents."""

    def __post_init__(self) -> None:
        require_positive(self, "copies", "until")
        if not self.scales:
            raise BadRequest("scales is empty; give at least one, such as 0.1")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Draws each open trial with each scale, always from its own first noise."""
        logits = target.knowledge.logits
        if logits is None:
            raise BadRequest(
                "judge_guidance follows a judge's gradient and this judge gives none; give one "
                "with `logits(images, concept)`, or leave the attack out"
            )
        trials = target.trials
        opened = sorted(range(len(trials)))
        start = first_noise(target.denoiser, [trial.seed for trial in trials])
        for scale in self.scales:
            draws = split(generator, *(str(trial) for trial in range(len(trials))))
            lead = _Lead(self, target, logits, scale, [draws[str(trial)] for trial in opened])
            read = target.denoiser.conditions([trials[trial].prompt for trial in opened])
            clean = continued(target, start[opened], read, steer=lead)
            still = yield [
                Attempt(
                    trial=trial,
                    prompt=trials[trial].prompt,
                    seed=trials[trial].seed,
                    spent=cost_of_steps(target, 0),
                    clean=clean[place].cpu(),
                    note=f"led by the judge, {scale:g} a step",
                )
                for place, trial in enumerate(opened)
            ]
            opened = sorted(still)


@dataclass(eq=False)
class _Lead:
    """Replaces predictions by those of pictures that the judge likes better."""

    settings: JudgeGuidance
    target: Target
    logits: Look
    scale: float
    draws: list[torch.Generator]
    """One per sample."""

    def __call__(self, visit: Visit) -> Visit:
        if visit.prediction is None or visit.index >= self.settings.until * visit.total:
            return visit
        process = self.target.denoiser.process
        times = visit.time.to(torch.float64).expand(len(visit.latents))
        clean = process.clean(visit.latents, visit.prediction, times)
        ascent = self._gradient(clean)
        size = clean.flatten(1).norm(dim=1) / ascent.flatten(1).norm(dim=1).clamp(min=1e-12)
        moved = clean + self.scale * size[:, None, None, None] * ascent
        nothing, one = torch.zeros_like(clean), torch.ones_like(clean)
        weight = process.noised(nothing, one, times)
        noise = (visit.latents - process.noised(moved, nothing, times)) / weight
        return replace(visit, prediction=process.truth(moved, noise, times))

    def _gradient(self, clean: Float[Tensor, "n c h w"]) -> Tensor:
        """Averages the gradient of the log-probability over noised copies."""
        copies, blur = self.settings.copies, self.settings.blur
        noise = torch.stack(
            [noise_like(clean[:1].repeat(copies, 1, 1, 1), one) for one in self.draws]
        )
        with torch.enable_grad():
            near = (clean.detach()[:, None] + blur * noise.to(clean)).flatten(0, 1)
            near.requires_grad_()
            pixels = with_gradients(self.target.model, near)
            seen = torch.nn.functional.logsigmoid(self.logits(pixels, self.target.concept))
            (gradient,) = torch.autograd.grad(seen.sum(), near)
        mean: Tensor = gradient.unflatten(0, (-1, copies)).mean(dim=1)
        return mean
