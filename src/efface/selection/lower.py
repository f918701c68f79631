"""Lower levels for pictures: how a classifier forgets some by weights, or a set by a method."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.concepts import Concept, Erasure, ErasureRequest
from efface.contracts import Eraser
from efface.data.batches import Batches
from efface.data.pictures import LabelledPictures, Part
from efface.errors import BadRequest, require_positive
from efface.hosts.classifier import Classifier
from efface.hosts.toys import filled
from efface.hosts.vision import VisionModel
from efface.randomness import evaluating, split
from efface.training.batch_norms import learning_statistics

__all__ = ["ByMethod", "Lower", "Retraining", "SignDescent", "borrowed"]

State = Mapping[str, Tensor]


@runtime_checkable
class Lower(Protocol):
    """What makes a classifier forget pictures until a ``with`` block ends."""

    @property
    def weighs(self) -> bool:
        """Whether weights between 0 and 1 mean something to it."""

    def erased(
        self,
        host: Classifier,
        pictures: LabelledPictures,
        removed: Float[Tensor, " n"],
        *,
        generator: torch.Generator,
        start: State | None,
    ) -> AbstractContextManager[State | None]:
        """Forgets, and gives the state from which another block may go on.

        Args:
            host: the classifier, which is left bit for bit as it was.
            pictures: all of them, numbered as the head is.
            removed: how much each picture is forgotten, 0 to 1.
            generator: of all draws.
            start: the state of another block; None: the model as it is.
        """


@contextmanager
def borrowed(network: nn.Module) -> Iterator[None]:
    """Lets the body change weights, buffers and what asks for gradients, and puts all back."""
    held = {name: value.detach().clone() for name, value in network.state_dict().items()}
    asked = {name: weight.requires_grad for name, weight in network.named_parameters()}
    try:
        with evaluating(network):
            yield
    finally:
        network.load_state_dict(held)
        for name, weight in network.named_parameters():
            weight.requires_grad_(asked[name])
            weight.grad = None


@dataclass(frozen=True, kw_only=True)
class SignDescent:
    """Goes on training with weights ``1 - w`` and steps of one size: the signs of the gradients.

    A step does not depend on how the gradient is scaled, and not on w to first order. Networks run
    as they do when recognising. A gradient of exactly zero makes no step.
    """

    rate: float = 1e-3
    """Size of a step, of every weight."""
    epochs: float = 2.0
    """Passes over all pictures."""
    batch: int = 256
    """Pictures a step."""
    weighs: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "rate", "epochs", "batch")

    @contextmanager
    def erased(
        self,
        host: Classifier,
        pictures: LabelledPictures,
        removed: Float[Tensor, " n"],
        *,
        generator: torch.Generator,
        start: State | None,
    ) -> Iterator[State | None]:
        """See `Lower.erased`."""
        network = host.network
        with borrowed(network):
            if start is not None:
                network.load_state_dict(start)
            weights = [each.requires_grad_() for each in network.parameters()]
            dealt = Batches(len(pictures), min(self.batch, len(pictures)))
            for _ in range(dealt.steps(self.epochs)):
                which = dealt.next(generator)
                loss = (kept(removed, which) * losses_of(host, pictures, which)).sum()
                signs = torch.autograd.grad(loss, weights, allow_unused=True)
                with torch.no_grad():
                    for weight, sign in zip(weights, signs, strict=True):
                        if sign is not None:
                            weight.sub_(self.rate * sign.sign())
            yield {name: value.clone() for name, value in network.state_dict().items()}


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """Trains new weights on what is kept: the exact lower level, as dear as the training was."""

    rate: float = 1e-3
    """Largest step size of AdamW; it falls along a cosine."""
    epochs: float = 10.0
    """Passes over what is kept."""
    batch: int = 128
    """Pictures a step."""
    decay: float = 0.05
    """Weight decay."""
    weighs: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "rate", "epochs", "batch")

    @contextmanager
    def erased(
        self,
        host: Classifier,
        pictures: LabelledPictures,
        removed: Float[Tensor, " n"],
        *,
        generator: torch.Generator,
        start: State | None,
    ) -> Iterator[State | None]:
        """See `Lower.erased`; it never goes on from a state."""
        del start
        network = host.network
        left = (removed < 1).nonzero().flatten()
        if not len(left):
            raise BadRequest("every picture is removed, so nothing is left to train on")
        draws = split(generator, "weights", "batches")
        with borrowed(network):
            network.load_state_dict(_untrained(network, draws["weights"]).state_dict())
            weights = [each.requires_grad_() for each in network.parameters()]
            dealt = Batches(len(left), min(self.batch, len(left)))
            total = dealt.steps(self.epochs)
            adam = torch.optim.AdamW(weights, lr=self.rate, weight_decay=self.decay)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, total)
            learning_statistics(network)
            for _ in range(total):
                which = left[dealt.next(draws["batches"])]
                share = kept(removed, which)
                loss = (share * losses_of(host, pictures, which)).sum() / share.sum()
                adam.zero_grad()
                loss.backward()
                adam.step()
                falling.step()
            network.eval()
            yield None


@dataclass(frozen=True)
class ByMethod:
    """Forgets a set of pictures by any method that forgets pictures, from its delta."""

    eraser: Eraser[VisionModel]
    by_class: bool = False
    """Whether whole classes are forgotten, by their names, instead of single pictures."""
    weighs: bool = False

    @contextmanager
    def erased(
        self,
        host: Classifier,
        pictures: LabelledPictures,
        removed: Float[Tensor, " n"],
        *,
        generator: torch.Generator,
        start: State | None,
    ) -> Iterator[State | None]:
        """See `Lower.erased`.

        Raises:
            BadRequest: weights between 0 and 1, or a state to go on from, which methods lack.
        """
        if start is not None or bool(((removed != 0) & (removed != 1)).any()):
            raise BadRequest(
                f"{self.eraser.name} takes sets of pictures; no weights, no warm start"
            )
        chosen = removed.nonzero().flatten()
        if not len(chosen):
            yield None
            return
        request = self.request(host, pictures, chosen)
        result = self.eraser.erase(host.model, request, generator=generator)
        with result.delta.apply(host.model):
            yield None

    def request(
        self, host: Classifier, pictures: LabelledPictures, chosen: Int[Tensor, " m"]
    ) -> ErasureRequest:
        """Writes the request that forgets some pictures, or the classes that they are of."""
        places: dict[str, Any] = {"retain_data": pictures}
        if self.by_class:
            numbers = pictures.labels[chosen].unique().tolist()
            named = [(host.model.labels[number], number) for number in numbers]
            concepts = [Concept(name=name, kind="class", labels=(n,)) for name, n in named]
        else:
            concepts = [Concept(name="single pictures", kind="content")]
            places["forget_data"] = Part(pictures, chosen)
        return ErasureRequest(erasures=tuple(Erasure(concept=one) for one in concepts), **places)


def losses_of(
    host: Classifier, pictures: LabelledPictures, which: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Reads pictures and gives the loss of each under the network as it is."""
    pixels = host.model.prepared(pictures.read(which.tolist()))
    return host.losses(host.logits(pixels), pictures.labels[which].to(pixels.device))


def kept(removed: Float[Tensor, " n"], which: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Gives how much some pictures stay."""
    return (1 - removed[which]).float()


def _untrained(network: nn.Module, generator: torch.Generator) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        made: nn.Module = type(network)(copy.deepcopy(network.config))
    filled(made, generator)
    return made
