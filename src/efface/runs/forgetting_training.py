"""What every method that forgets does around its loss, whatever it learns from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import nn

from efface.concepts import ErasureRequest
from efface.contracts import Monitor
from efface.data.batches import Batches
from efface.deltas.adapters import Adapters, adapting
from efface.deltas.patches import Patch
from efface.deltas.recording import Recording, model_place
from efface.deltas.results import ErasureResult
from efface.errors import BadModel
from efface.hosts.families import layout
from efface.hosts.states import check_editable, refuse_compiled
from efface.hosts.vision import VisionHost, VisionModel
from efface.hosts.vision_families import vision_host
from efface.randomness import split
from efface.runs.checks import check_family
from efface.runs.forgetting_data import Examples, ForgettingData
from efface.runs.forgetting_eraser import ForgettingEraser
from efface.training.hooks import Hooks
from efface.training.loop import Losses, train
from efface.training.parameters import Trained, training
from efface.training.session import Session

__all__ = ["ForgettingTraining"]

SomeHost = TypeVar("SomeHost", bound=VisionHost)
SomeExamples = TypeVar("SomeExamples", bound=Examples)
Opened: TypeAlias = "Callable[[VisionModel, ErasureRequest, str], ForgettingData[SomeExamples]]"


class ForgettingTraining(ABC, Generic[SomeHost, SomeExamples]):
    """One run of a method: opens the pictures, deals batches, trains, and writes the result up.

    Args:
        method: its settings.
        model: the model, which the run leaves as it was; earlier requests may be in force on it.
        request: what goes, and where the pictures are.
        host: the kind of model.
        opened: opens the pictures of a request to a model of some name.
        generator: of all draws; every purpose gets its own.
        monitor: called once a step.

    Raises:
        BadRequest, MissingInput: what ``opened`` refuses; or the method does not edit this kind.
        BadModel: weights are packed, offloaded, or narrower than float32.
    """

    def __init__(
        self,
        method: ForgettingEraser,
        model: Any,
        request: ErasureRequest,
        *,
        host: type[SomeHost],
        opened: Opened[SomeExamples],
        generator: torch.Generator,
        monitor: Monitor,
    ) -> None:
        check_family(method.name, method.families, layout(model))
        self.method, self.model, self.request = method, model, request
        self.session = Session.of(monitor)
        if self.session.checkpointing is not None:
            self.session.checkpointing.require_free()
        found = vision_host(model)
        assert isinstance(found, host)
        self.host = found
        check_editable(model)
        refuse_compiled(found.network, "the network")
        if next(found.network.parameters()).dtype.itemsize < 4:
            raise BadModel("small steps of training round away below float32; load it in float32")
        self.data = opened(model, request, model_place(model))
        purposes = ("forget", "retain", "batches", "adapters", "beside")
        self.draws = split(generator, *purposes)
        self.forget = self.replayed(self.data.forget, self.draws["forget"])
        self.retain = self.replayed(self.data.retain, self.draws["retain"])
        self._dealt = {
            "forget": Batches(len(self.forget), method.batch),
            "retain": Batches(len(self.retain), method.batch),
        }
        self.steps = self._steps()
        self.recording = Recording(
            model, generator=generator, monitor=monitor, steps=max(1, self.steps)
        )
        self.evaluations = 0
        """Pictures that went through the network, forwards."""

    @abstractmethod
    def replayed(self, examples: SomeExamples, draws: torch.Generator) -> SomeExamples:
        """Takes the share of some pictures that the method asks for."""

    def _steps(self) -> int:
        if not self.method.epochs:
            return self.method.steps
        return self._dealt[self.method.passes_over].steps(self.method.epochs)

    def training(self, parameters: Mapping[str, nn.Parameter]) -> AbstractContextManager[Trained]:
        """Trains parameters in place until the ``with`` block ends."""
        return training(self.model, parameters)

    def adapting(
        self, parameters: Mapping[str, nn.Parameter], *, rank: int, alpha: float
    ) -> AbstractContextManager[Adapters]:
        """Trains low-rank layers beside some weights until the ``with`` block ends."""
        draws = self.draws["adapters"]
        adapters = Adapters(self.model, parameters, rank=rank, alpha=alpha, generator=draws)
        return adapting(self.model, adapters)

    def train(
        self,
        losses: Losses,
        parameters: Mapping[str, nn.Parameter],
        *,
        hooks: Hooks | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        """Trains with the method's settings, as many steps as its epochs take."""
        self.recording.steps = self.steps
        train(
            losses,
            parameters,
            replace(self.method, steps=self.steps),
            generator=self.draws["batches"],
            recording=self.recording,
            hooks=hooks,
            beside={**self._dealt, **(beside or {})},
            checkpointing=self.session.checkpointing,
        )

    def result(self, patches: Mapping[str, Patch], **diagnostics: Any) -> ErasureResult:
        """Writes the run up, with the pictures that it took."""
        told = {
            "pictures_read": self.evaluations,
            "forget_pictures": len(self.forget),
            "retain_pictures": len(self.retain),
            **diagnostics,
        }
        request = self.data.named(self.request)
        return self.recording.result(self.method, request, patches, diagnostics=told)
