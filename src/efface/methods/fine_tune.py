"""Fine-tuning on what is retained, a baseline: what is not rehearsed is forgotten, if slowly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from efface.contracts import Monitor, Paper, silent
from efface.hosts.vision import VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import CIFAR, SMALL, ForgettingEraser

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["FineTune"]


@dataclass(frozen=True, kw_only=True)
class FineTune(ForgettingEraser):
    """Minimises the loss of retained pictures alone, from the trained weights.

    The weakest of the usual baselines: well-trained networks keep what they are no longer shown.
    """

    name: ClassVar[str] = "fine_tune"
    paper: ClassVar[Paper] = Paper(
        "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
        "1911.04933",
        2020,
    )

    @classmethod
    def presets(cls) -> Mapping[str, FineTune]:
        """Gives the released settings, and those measured for the bundled models."""
        return {
            "released-cifar10": cls(**CIFAR, learning_rate=1e-2),
            "icons": cls(**SMALL),
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
        with run.training(run.host.weights()) as edit:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                return {"retain": run.loss(run.retain_batch(generator))}

            run.train(losses, edit.parameters)
            patches = edit.patches()
        return run.result(patches)
