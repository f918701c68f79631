"""SCRUB: away from the teacher on what is erased, towards it on the rest (NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from efface.contracts import Monitor, Paper, silent
from efface.errors import BadRequest, require_positive
from efface.hosts.vision import VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import SMALL, ForgettingEraser
from efface.training.distilling import answers_apart
from efface.training.hooks import Counter

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["Scrub"]


@dataclass(frozen=True, kw_only=True)
class Scrub(ForgettingEraser):
    """Alternates between leaving the trained network's answers and holding them.

    Passes over erased pictures raise ``KL(teacher || student)`` in the first ``max_epochs``, passes
    over retained ones minimise ``gamma CE + alpha KL`` in every epoch. The very first step has no
    slope where student and teacher are the same, so the first pass is over retained pictures.

    Differs from the paper:
        The first pass is over retained pictures, since at the teacher's own weights there is
        nowhere to go from; the released code has dropout and augmentation to start it off.
        No averaged weights at the end.
    """

    name: ClassVar[str] = "scrub"
    paper: ClassVar[Paper] = Paper("Towards Unbounded Machine Unlearning", "2302.09880", 2023)

    alpha: float = 0.5
    """Weight of the teacher's answers for retained pictures."""
    gamma: float = 1.0
    """Weight of their true classes."""
    temperature: float = 2.0
    """Softens both answers before they are compared."""
    max_epochs: int = 3
    """Passes over erased pictures, one in each of the first epochs."""
    epochs: float = 5.0
    """Passes over retained pictures."""
    optimiser: Literal["adam", "adamw", "adam_l2", "sgd"] = "adam"
    """Adam; AdamW, where weight_decay pulls the weights; Adam that adds it to the gradient; or
    gradient descent with momentum, which adds it, too."""
    learning_rate: float = 5e-4
    """Step size of the optimiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "temperature", "epochs")
        if self.max_epochs < 0:
            raise BadRequest(f"max_epochs is {self.max_epochs}; it must not be negative")

    @classmethod
    def presets(cls) -> Mapping[str, Scrub]:
        """Gives the released settings, and those measured for the bundled models."""
        return {
            "released": cls(),
            "icons": cls(**SMALL | {"epochs": 1.0, "max_epochs": 1}),
        }

    def erase(
        self,
        model: VisionModel,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Trains all weights by turns."""
        run = ForgettingRun(self, model, request, generator=generator, monitor=monitor)
        turns = self.turns(len(run.every("retain")), len(run.every("forget")))
        run.steps = len(turns)
        with run.training(run.host.weights()) as edit:
            steps = Counter()

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                erasing = turns[steps.done] == "max"
                batch = run.forget_batch(generator) if erasing else run.retain_batch(generator)
                with edit.teacher():
                    wanted = run.host.logits(batch.pixels)
                logits = run.host.logits(batch.pixels)
                apart = self.divergence(wanted, logits)
                none = apart.new_zeros(())
                if erasing:
                    return {"erased": -apart, "retain": none, "teacher": none}
                true = self.gamma * run.host.losses(logits, batch.labels).mean()
                return {"erased": none, "retain": true, "teacher": self.alpha * apart}

            run.train(losses, edit.parameters, hooks=steps, beside={"steps": steps})
            patches = edit.patches()
        return run.result(patches)

    def turns(self, retained: int, erased: int) -> list[str]:
        """Lists what each step does.

        Args:
            retained: steps of a pass over retained pictures.
            erased: steps of a pass over erased ones.
        """
        found: list[str] = []
        for epoch in range(max(1, round(self.epochs))):
            found += ["min"] * retained
            found += ["max"] * erased if epoch < self.max_epochs else []
        # Ends on retained pictures, so that the last thing that is done is to repair.
        return found + ["min"] * (retained if found[-1] == "max" else 0)

    def divergence(
        self, teacher: Float[Tensor, "n classes"], student: Float[Tensor, "n classes"]
    ) -> Float[Tensor, ""]:
        """Gives ``T^2 KL(teacher || student)`` at temperature T, the mean over pictures."""
        apart = answers_apart(teacher, student, temperature=self.temperature)
        return self.temperature**2 * apart
