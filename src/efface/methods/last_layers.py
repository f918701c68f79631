"""Training the last layers on what is retained: kept (CF-k) or drawn anew (EU-k)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn

from efface.contracts import Monitor, Paper, silent
from efface.hosts.vision import VisionHost, VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import CIFAR, SMALL, ForgettingEraser

if TYPE_CHECKING:
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["LastLayers"]


@dataclass(frozen=True, kw_only=True)
class LastLayers(ForgettingEraser):
    """Freezes all but the last layers and trains those on retained pictures.

    Catastrophic forgetting (CF-k) starts from the trained layers, exact unlearning of layers (EU-k)
    from random ones; features below are never cleaned of anything.

    Differs from the released code:
        Layers are drawn anew once, not at every epoch, with the spread of their fan-in.
    """

    name: ClassVar[str] = "last_layers"
    paper: ClassVar[Paper] = Paper(
        "Towards Adversarial Evaluations for Inexact Machine Unlearning", "2201.06640", 2022
    )

    layers: int = 1
    """k: how many linear layers and convolutions, counted from the end."""
    start: Literal["kept", "drawn"] = "kept"
    """Where they start: as trained (CF-k), or random (EU-k)."""

    @classmethod
    def presets(cls) -> Mapping[str, LastLayers]:
        """Gives both by their names."""
        drawn: dict[str, Any] = {"start": "drawn", "layers": 2}
        return {
            "cf-k": cls(**CIFAR),
            "eu-k": cls(**CIFAR, start="drawn"),
            "icons": cls(**SMALL | drawn | {"learning_rate": 1e-3}),
            "icons-vit": cls(**SMALL | drawn | {"learning_rate": 3e-3, "steps": 120}),
        }

    def trainable(self, host: VisionHost) -> Mapping[str, nn.Parameter]:
        """See `ForgettingEraser.trainable`: the last layers."""
        return host.weights_of(host.last_layers(self.layers))

    def erase(
        self,
        model: VisionModel,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Trains the last layers."""
        run = ForgettingRun(self, model, request, generator=generator, monitor=monitor)
        chosen = self.trainable(run.host)
        with run.training(chosen) as edit:
            if self.start == "drawn":
                for weight in edit.parameters.values():
                    drawn = torch.randn(weight.shape, generator=run.draws["beside"])
                    spread = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.0
                    weight.data.copy_(spread * drawn)

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                return {"retain": run.loss(run.retain_batch(generator))}

            run.train(losses, edit.parameters)
            patches = edit.patches()
        return run.result(patches)
