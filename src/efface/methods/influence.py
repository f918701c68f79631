"""Influence unlearning: one damped Gauss-Newton step to the weights without what is erased."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from efface.contracts import Monitor, Paper, silent
from efface.errors import require_positive
from efface.hosts.vision import VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import ForgettingEraser
from efface.training.solving import conjugate_gradients

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["Influence"]


@dataclass(frozen=True, kw_only=True)
class Influence(ForgettingEraser):
    """Solves ``(G + damping) d = v`` by conjugate gradients and moves all weights by ``d``.

    G is the Gauss-Newton matrix of the retained pictures' loss and v how the mean loss's slope
    changes when the erased pictures leave it. The authors' code for "WoodFisher" never adds
    new samples to its inverse and so takes a scaled gradient step; this solves what they write, and
    says how well: the residual is among the diagnostics.
    """

    name: ClassVar[str] = "influence"
    paper: ClassVar[Paper] = Paper(
        "Certified Data Removal from Machine Learning Models", "1911.03030", 2020
    )
    weakened_by = ("lower scale", "raise damping")
    strengthened_by = ("raise scale", "lower damping")

    scale: float = 1.0
    """How far along the solution: 1 is the step itself."""
    damping: float = 1e-2
    """Added to the matrix's diagonal, in units of the loss's curvature."""
    iterations: int = 20
    """Of conjugate gradients, at most."""
    tolerance: float = 1e-3
    """Relative residual at which they end."""
    curvature_pictures: int = 256
    """Retained pictures that the matrix is made of."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "damping", "iterations", "tolerance", "curvature_pictures")

    @classmethod
    def presets(cls) -> Mapping[str, Influence]:
        """Gives the released settings, and those measured for the bundled models."""
        return {
            "released-scale": cls(scale=1.0),
            "icons": cls(batch=64, replay=0.25),
        }

    def erase(
        self,
        model: VisionModel,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Takes slopes, solves, and moves once."""
        run = ForgettingRun(self, model, request, generator=generator, monitor=monitor)
        weights = run.host.weights()
        order = torch.randperm(len(run.retain), generator=run.draws["beside"])
        looked_at = order[: self.curvature_pictures].split(self.batch)
        with run.training(weights) as edit, sdpa_kernel(SDPBackend.MATH):
            parameters = list(edit.parameters.values())
            gone, left = (self._slope(run, kind, parameters) for kind in ("forget", "retain"))
            erased, every = len(run.forget), len(run.forget) + len(run.retain)
            share = erased / every
            wanted = [share * (first - second) for first, second in zip(gone, left, strict=True)]

            def curved(vector: list[Tensor]) -> list[Tensor]:
                total = [self.damping * each for each in vector]
                for which in looked_at:
                    part = self._curvature(run, which, parameters, vector)
                    weight = len(which) / sum(map(len, looked_at))
                    total = [one + weight * two for one, two in zip(total, part, strict=True)]
                return total

            solution = conjugate_gradients(
                curved, wanted, iterations=self.iterations, tolerance=self.tolerance
            )
            for parameter, step in zip(parameters, solution.found, strict=True):
                parameter.data.add_(self.scale * step)
            patches = edit.patches()
        return run.result(patches, residual=solution.residual, iterations=solution.iterations)

    def _slope(
        self, run: ForgettingRun, kind: Literal["forget", "retain"], parameters: list[nn.Parameter]
    ) -> list[Tensor]:
        """Gives the slope of the mean loss of all pictures of one kind."""
        pictures = run.forget if kind == "forget" else run.retain
        total = [torch.zeros_like(each) for each in parameters]
        for which in run.every(kind):
            loss = run.loss(run.read(pictures, which))
            slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
            share = len(which) / len(pictures)
            total = [
                one if slope is None else one + share * slope
                for one, slope in zip(total, slopes, strict=True)
            ]
        return total

    def _curvature(
        self,
        run: ForgettingRun,
        which: Int[Tensor, " n"],
        parameters: list[nn.Parameter],
        vector: list[Tensor],
    ) -> list[Tensor]:
        """Gives ``J' H J v`` of the mean loss, H the softmax's curvature, without any matrix."""
        batch = run.read(run.retain, which)
        logits = run.host.logits(batch.pixels)
        probe = torch.zeros_like(logits, requires_grad=True)
        back = torch.autograd.grad(
            logits, parameters, probe, create_graph=True, allow_unused=True
        )  # J' u, linear in u, so that its slope along v is J v
        used = [n for n, each in enumerate(back) if each is not None]
        along = sum((back[n] * vector[n]).sum() for n in used)
        assert isinstance(along, torch.Tensor)
        (moved,) = torch.autograd.grad(along, probe, retain_graph=True)
        chance = logits.detach().softmax(1)
        bent = chance * moved - chance * (chance * moved).sum(1, keepdim=True)
        given = torch.autograd.grad(logits, parameters, bent / len(which), allow_unused=True)
        return [
            torch.zeros_like(one) if each is None else each
            for one, each in zip(parameters, given, strict=True)
        ]
