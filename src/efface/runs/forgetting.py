"""What every method that forgets pictures does around its loss: data, batches, training, result."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.concepts import ErasureRequest
from efface.contracts import Monitor
from efface.data.batches import Batches
from efface.data.pictures import LabelledPictures, few_per_class, share
from efface.deltas.adapters import Adapters, adapting
from efface.deltas.patches import Patch
from efface.deltas.recording import Recording, model_place
from efface.deltas.results import ErasureResult
from efface.errors import BadModel, BadRequest
from efface.hosts.classifier import Classifier
from efface.hosts.families import layout
from efface.hosts.states import check_editable, refuse_compiled
from efface.hosts.toys import filled
from efface.hosts.vision_families import vision_host
from efface.randomness import split
from efface.runs.checks import check_family
from efface.runs.forgetting_data import forgetting_data
from efface.runs.forgetting_eraser import ForgettingEraser
from efface.training.hooks import Hooks
from efface.training.loop import Losses, train
from efface.training.parameters import Trained, training
from efface.training.session import Session

__all__ = ["Batch", "ForgettingRun"]


class Batch(NamedTuple):
    """Some pictures, as the network reads them."""

    pixels: Float[Tensor, "n 3 h w"]
    labels: Int[Tensor, " n"]
    which: Int[Tensor, " n"]
    """Their places among the pictures of their kind."""


class ForgettingRun:
    """One run of a method: opens the pictures, deals batches, trains, and writes the result up.

    Args:
        method: its settings.
        model: the model, which the run leaves as it was; earlier requests may be in force on it.
        request: what goes, and where the pictures are.
        generator: of all draws; every purpose gets its own.
        monitor: called once a step.

    Raises:
        BadRequest, MissingInput: see `efface.runs.forgetting_data.forgetting_data`; or the method
            does not edit this kind of model.
        BadModel: weights are packed, offloaded, or narrower than float32.
    """

    def __init__(
        self,
        method: ForgettingEraser,
        model: Any,
        request: ErasureRequest,
        *,
        generator: torch.Generator,
        monitor: Monitor,
    ) -> None:
        check_family(method.name, method.families, layout(model))
        self.method, self.model, self.request = method, model, request
        self.session = Session.of(monitor)
        if self.session.checkpointing is not None:
            self.session.checkpointing.require_free()
        host = vision_host(model)
        assert isinstance(host, Classifier)
        self.host = host
        check_editable(model)
        refuse_compiled(host.network, "the network")
        if next(host.network.parameters()).dtype.itemsize < 4:
            raise BadModel("small steps of training round away below float32; load it in float32")
        self.data = forgetting_data(model, request, model_place(model))
        purposes = ("forget", "retain", "batches", "adapters", "beside")
        self.draws = split(generator, *purposes)
        self.forget = self._replayed(self.data.forget, "forget")
        self.retain = self._replayed(self.data.retain, "retain")
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

    def _replayed(self, pictures: LabelledPictures, purpose: str) -> LabelledPictures:
        if self.method.shots:
            return few_per_class(pictures, self.method.shots, self.draws[purpose])
        return share(pictures, self.method.replay, self.draws[purpose])

    def _steps(self) -> int:
        if not self.method.epochs:
            return self.method.steps
        return self._dealt[self.method.passes_over].steps(self.method.epochs)

    def forget_batch(self, generator: torch.Generator) -> Batch:
        """Deals pictures of what is erased."""
        return self.read(self.forget, self._dealt["forget"].next(generator))

    def retain_batch(self, generator: torch.Generator) -> Batch:
        """Deals pictures of what is retained."""
        return self.read(self.retain, self._dealt["retain"].next(generator))

    def read(self, pictures: LabelledPictures, which: Int[Tensor, " n"]) -> Batch:
        """Reads and prepares some pictures."""
        pixels = self.model.prepared(pictures.read(which.tolist()))
        labels = pictures.labels[which].to(pixels.device)
        self.evaluations += len(which)
        return Batch(pixels, labels, which)

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Gives the mean loss of a batch, as the head is trained."""
        return self.host.losses(self.host.logits(batch.pixels), batch.labels).mean()

    def untrained(self) -> nn.Module:
        """Gives a network like this one with random weights."""
        config = copy.deepcopy(self.host.network.config)
        with torch.random.fork_rng(devices=[]):
            network: nn.Module = type(self.host.network)(config)
        filled(network, self.draws["beside"])
        return network.eval().requires_grad_(requires_grad=False)

    def refuse_batch_norms(self) -> None:
        """Refuses networks whose norms have statistics, which a delta does not hold.

        Raises:
            BadRequest: naming the method and the layer.
        """
        for path, module in self.host.network.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise BadRequest(
                    f"{self.method.name} would need new statistics of {path}, and a delta holds "
                    "weights alone; use a network without batch norms, such as a ViT or ConvNeXt"
                )

    def every(self, kind: Literal["forget", "retain"]) -> list[Int[Tensor, " n"]]:
        """Lists batches of all pictures of one kind, in order."""
        return list(self._dealt[kind].in_order())

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
