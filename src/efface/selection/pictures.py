"""Pictures, or whole classes of them, as candidates: a classifier forgets some of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.data.pictures import LabelledPictures
from efface.errors import BadRequest
from efface.hosts.classifier import Classifier
from efface.hosts.vision import VisionModel
from efface.hosts.vision_families import vision_host
from efface.selection.lower import Lower, losses_of

__all__ = ["PictureCandidates", "nearest"]


class PictureCandidates:
    """Pictures of a classifier's classes, with the lower level that forgets them.

    The loss of a picture is the one that the head is trained with, without dropout and
    augmentation; that of a class is the mean over its pictures.

    Args:
        model: the classifier.
        pictures: numbered as its head numbers the classes.
        lower: how it forgets.
        by: what a candidate is.
        batch: pictures scored at once.

    Raises:
        BadRequest: the model does not classify, the classes are not the head's, or one has no
            picture.
    """

    def __init__(
        self,
        model: VisionModel,
        pictures: LabelledPictures,
        lower: Lower,
        *,
        by: Literal["picture", "class"] = "picture",
        batch: int = 256,
    ) -> None:
        host = vision_host(model)
        if not isinstance(host, Classifier):
            raise BadRequest(f"{host.title} have no loss for each picture; take a classifier")
        if tuple(pictures.names) != tuple(model.labels):
            raise BadRequest(
                f"the pictures are of {len(pictures.names)} classes and the head has "
                f"{len(model.labels)}, or they are named otherwise; number them as the head does"
            )
        self.host, self.pictures, self.lower = host, pictures, lower
        self.by, self._batch = by, batch
        counts = torch.bincount(pictures.labels, minlength=len(pictures.names))
        if by == "class" and (empty := (counts == 0).nonzero().flatten().tolist()):
            raise BadRequest(f"there is no picture of {pictures.names[empty[0]]}; give some")
        self.of: Int[Tensor, " n"] = (
            pictures.labels if by == "class" else torch.arange(len(pictures))
        )
        """Which candidate each picture belongs to."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What each candidate is called: a class, or a class with a picture's number."""
        if self.by == "class":
            return tuple(self.pictures.names)
        labels = self.pictures.labels.tolist()
        return tuple(f"{self.pictures.names[label]} {n}" for n, label in enumerate(labels))

    @property
    def weighs(self) -> bool:
        """Whether the lower level takes weights between 0 and 1."""
        return self.lower.weighs

    def __len__(self) -> int:
        """Counts the candidates."""
        return len(self.pictures.names) if self.by == "class" else len(self.pictures)

    @contextmanager
    def erased(
        self, weights: Float[Tensor, " n"], *, generator: torch.Generator, start: Any = None
    ) -> Iterator[Any]:
        """Forgets candidates; see `efface.contracts.Candidates`."""
        removed = weights[self.of]
        with self.lower.erased(
            self.host, self.pictures, removed, generator=generator, start=start
        ) as state:
            yield state

    def losses(self) -> Float[Tensor, " n"]:
        """Gives the loss of each candidate under the network as it is."""
        each = self.picture_losses()
        total = torch.zeros(len(self), dtype=torch.float64).index_add_(0, self.of, each)
        return total / torch.bincount(self.of, minlength=len(self))

    @torch.no_grad()
    def picture_losses(self) -> Float[Tensor, " n"]:
        """Gives the loss of each picture under the network as it is."""
        parts = torch.arange(len(self.pictures)).split(self._batch)
        found = [losses_of(self.host, self.pictures, some) for some in parts]
        return torch.cat(found).double().cpu()

    @torch.no_grad()
    def features(self) -> Float[Tensor, "n dim"]:
        """Gives what the head reads of each picture, with length 1."""
        found = []
        for some in torch.arange(len(self.pictures)).split(self._batch):
            pixels = self.host.model.prepared(self.pictures.read(some.tolist()))
            found.append(self.host.features(pixels).flatten(1).cpu())
        return torch.nn.functional.normalize(torch.cat(found), dim=1)


def nearest(
    features: Float[Tensor, "n dim"], which: Int[Tensor, " m"], count: int
) -> Int[Tensor, "m count"]:
    """Lists for some rows the others that are most alike, by cosine, the most alike first."""
    alike = features[which] @ features.T
    alike[torch.arange(len(which)), which] = -torch.inf
    return alike.topk(min(count, len(features) - 1), dim=1).indices
