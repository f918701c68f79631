"""Boundary shrink: erased pictures get the class beyond their nearest boundary (CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from efface.contracts import Monitor, Paper, silent
from efface.errors import NothingChanged
from efface.hosts.vision import VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import SMALL, ForgettingEraser

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["BoundaryShrink"]


@dataclass(frozen=True, kw_only=True)
class BoundaryShrink(ForgettingEraser):
    """Teaches for each erased picture the class that a small adversarial step makes of it.

    The step is the fast gradient sign's, of ``step`` in pixels of 0 to 1 on the frozen network, and
    rounded to levels. A picture that it does not move keeps its class, and is not forgotten.
    """

    name: ClassVar[str] = "boundary_shrink"
    paper: ClassVar[Paper] = Paper(
        "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary",
        "2303.11570",
        2023,
    )
    passes_over: ClassVar[Literal["forget", "retain"]] = "forget"

    step: float = 0.1
    """Size of the adversarial step, in pixels of 0 to 1."""
    learning_rate: float = 1e-4
    """Step size of the optimiser."""

    @classmethod
    def presets(cls) -> Mapping[str, BoundaryShrink]:
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
        """Finds the neighbours' classes, then trains all weights on erased pictures."""
        run = ForgettingRun(self, model, request, generator=generator, monitor=monitor)
        targets = torch.cat([self._beyond(run, which) for which in run.every("forget")])
        moved = float((targets != run.forget.labels.to(targets)).float().mean())
        if not moved:
            raise NothingChanged(
                f"a step of {self.step} moves no picture over a boundary, so all would keep their "
                "classes; raise step"
            )
        with run.training(run.host.weights()) as edit:

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                batch = run.forget_batch(generator)
                return {"erased": run.loss(batch._replace(labels=targets[batch.which]))}

            run.train(losses, edit.parameters)
            patches = edit.patches()
        return run.result(patches, moved_over_a_boundary=moved)

    def _beyond(self, run: ForgettingRun, which: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Gives the frozen network's class of pictures after a step along their loss."""
        batch = run.read(run.forget, which)
        black, white = run.model.prepared([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
        low, high = (one.amin((1, 2))[None, :, None, None] for one in (black, white))
        pixels = batch.pixels.clone().requires_grad_()
        with torch.enable_grad():
            run.host.losses(run.host.logits(pixels), batch.labels).sum().backward()
        assert pixels.grad is not None
        moved = batch.pixels + self.step * (high - low) * pixels.grad.sign()
        levels = ((moved - low) / (high - low)).clamp(0, 1).mul(255).round() / 255
        with torch.no_grad():
            return run.host.logits(low + levels * (high - low)).argmax(1)
