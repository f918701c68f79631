"""What a method that forgets labelled pictures does around its loss: data, batches, training."""

from __future__ import annotations

import copy
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.concepts import ErasureRequest
from efface.contracts import Monitor
from efface.data.pictures import LabelledPictures, few_per_class, share
from efface.hosts.classifier import Classifier
from efface.hosts.toys import filled
from efface.runs.forgetting_data import forgetting_data
from efface.runs.forgetting_eraser import ForgettingEraser
from efface.runs.forgetting_training import ForgettingTraining

__all__ = ["Batch", "ForgettingRun"]


class Batch(NamedTuple):
    """Some pictures, as the network reads them."""

    pixels: Float[Tensor, "n 3 h w"]
    labels: Int[Tensor, " n"]
    which: Int[Tensor, " n"]
    """Their places among the pictures of their kind."""


class ForgettingRun(ForgettingTraining[Classifier, LabelledPictures]):
    """One run of a method on labelled pictures: see `ForgettingTraining`.

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
        super().__init__(
            method,
            model,
            request,
            host=Classifier,
            opened=forgetting_data,
            generator=generator,
            monitor=monitor,
        )

    def replayed(self, examples: LabelledPictures, draws: torch.Generator) -> LabelledPictures:
        """See `ForgettingTraining`."""
        if self.method.shots:
            return few_per_class(examples, self.method.shots, draws)
        return share(examples, self.method.replay, draws)

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

    @property
    def without_pictures(self) -> tuple[int, ...]:
        """Classes that no request erases and of which there is no retained picture, either."""
        shown = {*self.retain.labels.tolist(), *self.data.classes, *self.data.earlier}
        return tuple(number for number in range(self.host.classes) if number not in shown)

    def untrained(self) -> nn.Module:
        """Gives a network like this one with random weights, where and in what this one is."""
        config = copy.deepcopy(self.host.network.config)
        with torch.random.fork_rng(devices=[]):
            network: nn.Module = type(self.host.network)(config)
        filled(network, self.draws["beside"])
        network.to(next(self.host.network.parameters()))
        return network.eval().requires_grad_(requires_grad=False)

    def every(self, kind: Literal["forget", "retain"]) -> list[Int[Tensor, " n"]]:
        """Lists batches of all pictures of one kind, in order."""
        return list(self._dealt[kind].in_order())
