"""Bad teacher: answers of an untrained network for what is erased (AAAI 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.contracts import Monitor, Paper, silent
from efface.errors import require_positive
from efface.hosts.vision import VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import SMALL, ForgettingEraser
from efface.training.distilling import answers_apart

if TYPE_CHECKING:
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["BadTeacher"]


@dataclass(frozen=True, kw_only=True)
class BadTeacher(ForgettingEraser):
    """Teaches an untrained network's answers for erased pictures, the trained one's for the rest.

    Both are compared by ``KL(teacher || student)``, the mean over pictures; the released code also
    divides by the number of classes, so that its step sizes are others.
    """

    name: ClassVar[str] = "bad_teacher"
    paper: ClassVar[Paper] = Paper(
        "Can Bad Teaching Induce Forgetting?",
        "2205.08096",
        2023,
    )

    temperature: float = 1.0
    """Softens all answers before they are compared."""
    epochs: float = 3.0
    """Passes over retained pictures."""
    optimiser: Literal["adam", "adamw", "adam_l2", "sgd"] = "adam"
    """Adam; AdamW, where weight_decay pulls the weights; Adam that adds it to the gradient; or
    gradient descent with momentum, which adds it, too."""
    learning_rate: float = 1e-4
    """Step size of the optimiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "temperature")

    @classmethod
    def presets(cls) -> Mapping[str, BadTeacher]:
        """Gives the released settings, and those measured for the bundled models."""
        return {
            "released": cls(epochs=1.0),
            "icons": cls(**SMALL),
            "icons-vit": cls(**SMALL | {"learning_rate": 1e-3, "steps": 120}),
        }

    def erase(
        self,
        model: VisionModel,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Trains all weights."""
        run = ForgettingRun(self, model, request, generator=generator, monitor=monitor)
        untrained = run.untrained()
        with run.training(run.host.weights()) as edit:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                forget, retain = run.forget_batch(generator), run.retain_batch(generator)
                cut = len(forget.labels)
                with torch.no_grad():
                    first = untrained(pixel_values=forget.pixels).logits
                with edit.teacher():
                    second = run.host.logits(retain.pixels)
                found = run.host.logits(torch.cat([forget.pixels, retain.pixels]))
                return {
                    "erased": answers_apart(first, found[:cut], temperature=self.temperature),
                    "retain": answers_apart(second, found[cut:], temperature=self.temperature),
                }

            run.train(losses, edit.parameters)
            patches = edit.patches()
        return run.result(patches)
