"""Gradient ascent on what is erased (NegGrad), with what is retained held beside it (NegGrad+)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from efface.contracts import Monitor, Paper, silent
from efface.errors import BadRequest
from efface.hosts.vision import VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import SMALL, ForgettingEraser

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["GradientAscent"]


@dataclass(frozen=True, kw_only=True)
class GradientAscent(ForgettingEraser):
    """Raises the loss of erased pictures: ``a CE(retained) - (1 - a) CE(erased)``.

    With ``retain_weight`` 0 only erased pictures are looked at (NegGrad), and the step size decides
    between nothing and ruin; above 0 retained ones are held (NegGrad+, in SCRUB's code).
    """

    name: ClassVar[str] = "gradient_ascent"
    paper: ClassVar[Paper] = Paper(
        "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
        "1911.04933",
        2020,
    )
    passes_over: ClassVar[Literal["forget", "retain"]] = "forget"

    retain_weight: float = 0.0
    """a: share of the loss of retained pictures."""
    epochs: float = 5.0
    """Passes over the erased pictures; 0: as many steps as ``steps`` says."""
    learning_rate: float = 1e-4
    """Step size of the optimiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.retain_weight < 1:
            raise BadRequest(f"retain_weight is {self.retain_weight}; give 0 or more, below 1")

    @classmethod
    def presets(cls) -> Mapping[str, GradientAscent]:
        """Gives the released settings, and those measured for the bundled models."""
        return {
            "released-cifar10-class": cls(batch=256, learning_rate=1e-4),
            "icons": cls(**SMALL | {"learning_rate": 1e-4, "retain_weight": 0.9}),
            "icons-vit": cls(**SMALL | {"learning_rate": 2e-4, "retain_weight": 0.9}),
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
        share = self.retain_weight
        with run.training(run.host.weights()) as edit:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                terms = {"erased": -(1 - share) * run.loss(run.forget_batch(generator))}
                if share:
                    terms["retain"] = share * run.loss(run.retain_batch(generator))
                return terms

            run.train(losses, edit.parameters)
            patches = edit.patches()
        return run.result(patches)
