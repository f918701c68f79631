"""Fine-tuning on what is retained with a pull to fewer weights (l1-sparse, NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from efface.contracts import Monitor, Paper, silent
from efface.errors import BadRequest
from efface.hosts.vision import VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import CIFAR, SMALL, ForgettingEraser
from efface.training.hooks import Counter

if TYPE_CHECKING:
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["L1Sparse"]


@dataclass(frozen=True, kw_only=True)
class L1Sparse(ForgettingEraser):
    """Minimises the loss of retained pictures plus the sum of all weights' sizes.

    The sum's factor falls to zero along a line over the run. Norms and biases count, too.
    """

    name: ClassVar[str] = "l1_sparse"
    paper: ClassVar[Paper] = Paper(
        "Model Sparsity Can Simplify Machine Unlearning", "2304.04934", 2023
    )

    l1: float = 1e-4
    """Factor of the sum at the first step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.l1 < 0:
            raise BadRequest(f"l1 is {self.l1}; it must not be negative")

    @classmethod
    def presets(cls) -> Mapping[str, L1Sparse]:
        """Gives the released settings, and those measured for the bundled models."""
        return {
            "released-cifar10": cls(**CIFAR, learning_rate=1e-2, l1=1e-3),
            "icons": cls(**SMALL | {"l1": 2e-5}),
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
            steps = Counter()

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                terms = {"retain": run.loss(run.retain_batch(generator))}
                if self.l1:
                    left = self.l1 * (1 - steps.done / run.steps)
                    sizes = [weight.abs().sum() for weight in edit.parameters.values()]
                    terms["sizes"] = left * torch.stack(sizes).sum()
                return terms

            run.train(losses, edit.parameters, hooks=steps, beside={"steps": steps})
            patches = edit.patches()
        return run.result(patches)
