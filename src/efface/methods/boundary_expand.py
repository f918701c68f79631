"""Boundary expanding: erased pictures get a class of their own, which is then taken out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional

from efface.contracts import Monitor, Paper, silent
from efface.hosts.vision import VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import SMALL, ForgettingEraser

if TYPE_CHECKING:
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["BoundaryExpand"]


@dataclass(frozen=True, kw_only=True)
class BoundaryExpand(ForgettingEraser):
    """Adds one output to the head, teaches it for erased pictures, and leaves it out of the result.

    The output reads the head's features; its weights start at zero and are no part of the delta.
    """

    name: ClassVar[str] = "boundary_expand"
    paper: ClassVar[Paper] = Paper(
        "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary",
        "2303.11570",
        2023,
    )
    passes_over: ClassVar[Literal["forget", "retain"]] = "forget"

    learning_rate: float = 1e-4
    """Step size of the optimiser."""

    @classmethod
    def presets(cls) -> Mapping[str, BoundaryExpand]:
        """Gives the released settings, and those measured for the bundled models."""
        return {
            "released": cls(learning_rate=1e-5, epochs=10.0),
            "icons": cls(**SMALL | {"learning_rate": 5e-5, "steps": 40}),
        }

    def erase(
        self,
        model: VisionModel,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Trains all weights and one output more."""
        run = ForgettingRun(self, model, request, generator=generator, monitor=monitor)
        classes = run.host.classes
        with run.training(run.host.weights()) as edit:
            width = run.host.features(run.read(run.forget, torch.tensor([0])).pixels).shape[1]
            weight, bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(()))

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                batch = run.forget_batch(generator)
                logits, features = run.host.both(batch.pixels)
                added = features @ weight.to(features) + bias.to(features)
                own = torch.full_like(batch.labels, classes)
                longer = torch.cat([logits, added[:, None]], dim=1)
                return {"erased": functional.cross_entropy(longer, own)}

            more = {"added/weight": weight, "added/bias": bias}
            run.train(losses, {**edit.parameters, **more})
            patches = edit.patches()
        return run.result(patches)
