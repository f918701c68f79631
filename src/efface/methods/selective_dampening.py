"""Selective synaptic dampening: shrinks weights that matter to what is erased (AAAI 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch
from torch import nn

from efface.contracts import Monitor, Paper, silent
from efface.errors import require_positive
from efface.hosts.vision import VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import ForgettingEraser

if TYPE_CHECKING:
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

_Kind: TypeAlias = Literal["forget", "retain"]

__all__ = ["SelectiveDampening"]


@dataclass(frozen=True, kw_only=True)
class SelectiveDampening(ForgettingEraser):
    """Shrinks weights whose importance to erased pictures is far above that to all, in one step.

    Importance is the mean square of the loss's slope over pictures, here of batches of
    ``importance_batch``. Where ``F_forget > alpha F_all``, a weight is multiplied by
    ``min(lambda F_all / F_forget, 1)``. No training (recalled from the paper: alpha 10, lambda 1).

    **Differs from the paper.** Where a share s of the pictures is erased, ``F_forget`` is at most
    ``F_all / s``: with alpha 10 nothing is ever chosen of a tenth or more. ``against="retained"``
    is ours: it compares with the importance to retained pictures alone, however many they are.
    """

    name: ClassVar[str] = "selective_dampening"
    paper: ClassVar[Paper] = Paper(
        "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
        "2308.07707",
        2024,
    )
    weakened_by = ("raise selection", "raise dampening")
    strengthened_by = ("lower selection", "lower dampening")

    against: Literal["all", "retained"] = "all"
    """What importance to erased pictures is compared with: that to all, or to retained ones."""
    selection: float = 10.0
    """alpha: how many times more important to erased pictures a weight must be."""
    dampening: float = 1.0
    """lambda: how little it is shrunk."""
    importance_batch: int = 4
    """Pictures whose slopes are taken together; 1 is the Fisher information's diagonal."""
    replay: float = 0.25
    """Share of the pictures of each class that is taken, of both kinds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "selection", "dampening", "importance_batch")

    @classmethod
    def presets(cls) -> Mapping[str, SelectiveDampening]:
        """Gives the released settings, and those for the bundled models."""
        return {
            "paper": cls(),
            "icons": cls(against="retained", selection=50.0, dampening=10.0),
        }

    def erase(
        self,
        model: VisionModel,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Measures importance twice, then shrinks."""
        run = ForgettingRun(self, model, request, generator=generator, monitor=monitor)
        with run.training(run.host.weights()) as edit:
            own = self._importance(run, edit.parameters, ["forget"])
            others: list[_Kind] = ["retain"] if self.against == "retained" else ["forget", "retain"]
            every = self._importance(run, edit.parameters, others)
            shrunk = 0
            for key, weight in edit.parameters.items():
                chosen = own[key] > self.selection * every[key]
                factor = (self.dampening * every[key] / own[key].clamp(min=1e-30)).clamp(max=1)
                weight.data.copy_(torch.where(chosen, weight * factor, weight))
                shrunk += int(chosen.sum())
            patches = edit.patches()
        return run.result(patches, shrunk_weights=shrunk)

    def _importance(
        self,
        run: ForgettingRun,
        parameters: Mapping[str, nn.Parameter],
        kinds: Sequence[_Kind],
    ) -> dict[str, Tensor]:
        """Averages the squared slopes of batches of pictures."""
        total = {key: torch.zeros_like(weight) for key, weight in parameters.items()}
        count = 0
        for kind in kinds:
            pictures = run.forget if kind == "forget" else run.retain
            for which in torch.arange(len(pictures)).split(self.importance_batch):
                slopes = torch.autograd.grad(
                    run.loss(run.read(pictures, which)),
                    list(parameters.values()),
                    allow_unused=True,
                )
                for key, slope in zip(parameters, slopes, strict=True):
                    if slope is not None:
                        total[key] += len(which) * slope**2
                count += len(which)
        return {key: value / count for key, value in total.items()}
