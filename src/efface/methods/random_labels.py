"""Random labels for what is erased (RL), and SalUn with a share of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from efface.contracts import Monitor, Paper, silent
from efface.hosts.vision import VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import CIFAR, SMALL, ForgettingEraser

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["RandomLabels"]


@dataclass(frozen=True, kw_only=True)
class RandomLabels(ForgettingEraser):
    """Teaches random classes for erased pictures, drawn anew each time, beside retained ones.

    With ``saliency`` below 1 only the weights to which the loss is most sensitive change (SalUn,
    arXiv 2310.12508); the others keep their bits. SalUn ranks by the loss of erased pictures under
    their true classes, here the loss of a first step does.
    """

    name: ClassVar[str] = "random_labels"
    paper: ClassVar[Paper] = Paper("Amnesiac Machine Learning", "2010.10981", 2021)

    exclude_true: bool = False
    """Never draw a picture's own class; otherwise it comes up with a chance of one in all."""

    @classmethod
    def presets(cls) -> Mapping[str, RandomLabels]:
        """Gives the released settings, SalUn's, and those measured for the bundled models."""
        longer: dict[str, Any] = {"exclude_true": True, "learning_rate": 1e-3, "steps": 120}
        return {
            "released-cifar10": cls(**CIFAR),
            "salun": cls(**CIFAR, saliency=0.5, learning_rate=0.013),
            "icons": cls(**SMALL | {"exclude_true": True}),
            "icons-salun": cls(**SMALL | {"exclude_true": True, "saliency": 0.5}),
            "icons-vit": cls(**SMALL | longer),
            "icons-vit-salun": cls(**SMALL | longer | {"saliency": 0.5}),
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
                batch = run.forget_batch(generator)
                drawn = self.drawn(batch.labels, run.host.classes, generator)
                return {
                    "erased": run.loss(batch._replace(labels=drawn)),
                    "retain": run.loss(run.retain_batch(generator)),
                }

            run.train(losses, edit.parameters)
            patches = edit.patches()
        return run.result(patches)

    def drawn(
        self, labels: Int[Tensor, " n"], classes: int, generator: torch.Generator
    ) -> Int[Tensor, " n"]:
        """Draws a class for each picture."""
        if self.exclude_true:
            further = torch.randint(1, classes, labels.shape, generator=generator)
            return (labels + further.to(labels)) % classes
        return torch.randint(classes, labels.shape, generator=generator).to(labels)
