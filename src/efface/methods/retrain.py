"""Retraining without what is erased: the answer that all others are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from efface.contracts import Monitor, Paper, silent
from efface.hosts.components import canonical
from efface.hosts.vision import VisionModel
from efface.runs.forgetting import ForgettingRun
from efface.runs.forgetting_eraser import ForgettingEraser
from efface.training.batch_norms import new_statistics

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from efface.concepts import ErasureRequest
    from efface.deltas.results import ErasureResult

__all__ = ["Retrain"]


@dataclass(frozen=True, kw_only=True)
class Retrain(ForgettingEraser):
    """Trains random weights on retained pictures alone.

    Exact, and as dear as the training was. Batch norms learn new statistics as well; the delta
    holds them as a change of the norms' weights, which does the same.
    """

    name: ClassVar[str] = "retrain"
    paper: ClassVar[Paper] = Paper("Machine Unlearning", "1912.03817", 2021)

    epochs: float = 20.0
    """Passes over retained pictures; as many as the model was trained with."""
    optimiser: Literal["adam", "adamw", "adam_l2", "sgd"] = "adamw"
    """Adam; AdamW, where weight_decay pulls the weights; Adam that adds it to the gradient; or
    gradient descent with momentum, which adds it, too."""
    learning_rate: float = 1e-3
    """Step size of the optimiser."""
    weight_decay: float = 0.05
    """Pull of the weights to zero, of all but adam."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the step size changes: not at all, or down to a hundredth along a cosine."""
    clip: float = 1.0
    """Longest gradient over all parameters; longer ones are shortened. 0: no limit."""

    @classmethod
    def presets(cls) -> Mapping[str, Retrain]:
        """Gives the released settings, and those measured for the bundled models."""
        return {
            "released-cifar10": cls(
                optimiser="sgd",
                learning_rate=0.1,
                epochs=182.0,
                batch=256,
                weight_decay=5e-4,
                schedule="constant",
                clip=0.0,
            ),
            "icons": cls(epochs=8.0, batch=64),
        }

    def erase(
        self,
        model: VisionModel,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor = silent,
    ) -> ErasureResult:
        """Draws all weights anew and trains them."""
        run = ForgettingRun(self, model, request, generator=generator, monitor=monitor)
        untrained = dict(run.untrained().named_parameters())
        drawn = {f"model/{canonical(path)}": weight for path, weight in untrained.items()}
        with run.training(run.host.weights()) as edit:
            for key, weight in edit.parameters.items():
                weight.data.copy_(drawn[key])

            def losses(generator: torch.Generator) -> dict[str, Tensor]:
                return {"retain": run.loss(run.retain_batch(generator))}

            with new_statistics(run.host.network):
                run.train(losses, edit.parameters)
            patches = edit.patches()
        return run.result(patches)
