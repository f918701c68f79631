"""Asks a CLIP model from a local folder: does the picture fit the concept or something else?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from efface.concepts import Concept, names, wordings
from efface.content import content_hash
from efface.contracts import JudgeCard
from efface.errors import BadRequest
from efface.hosts.clip import FolderClip
from efface.metrics.estimates import UNKNOWN

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["ZeroShot"]


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Compares a picture with the concept's wordings and with alternatives, by CLIP.

    The probability is a softmax over one vector for the concept (the mean of its wordings, those of
    its synonyms among them), one per neighbour but itself, worded alike, and one per alternative,
    with the model's own temperature. It knows every concept, and nobody has
    measured how often it is wrong: its card says so.

    Raises:
        BadRequest: no alternatives, or a threshold outside 0 to 1.
        MissingInput, BadModel: see `FolderClip`.
    """

    folder: Path
    """A saved CLIP model with tokenizer and preprocessor."""
    alternatives: tuple[str, ...] = ("a picture of something else", "an empty background")
    """What else could be in the picture, as whole texts."""
    neighbours: tuple[str, ...] = ()
    """Names of near things, which make a stricter judge; `efface evaluate` takes those that the
    request erases and keeps."""
    threshold: float = 0.5
    """Probability from which a picture counts as showing the concept."""
    device: str = "cpu"
    """Where the model runs."""
    _clip: FolderClip = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.alternatives:
            raise BadRequest("a zero-shot judge needs alternatives to tell the concept from")
        if not 0 < self.threshold < 1:
            raise BadRequest(f"threshold is {self.threshold}; it must be between 0 and 1")
        object.__setattr__(self, "_clip", FolderClip(self.folder, device=self.device))

    @property
    def card(self) -> JudgeCard:
        """The judge's identity; its error rates are unknown."""
        return JudgeCard(
            name=f"zero_shot ({self._clip.folder.name})",
            version="1",
            threshold=self.threshold,
            true_positive_rate=UNKNOWN,
            false_positive_rate=UNKNOWN,
            notes="Error rates were not measured. Told apart from: "
            + "; ".join([*self.neighbours, *self.alternatives]),
        )

    @property
    def identity(self) -> str:
        """Names everything that decides its answers: the CLIP model's content and the labels."""
        labels = (self.alternatives, self.neighbours)
        return content_hash(type(self).__qualname__, self._clip.identity, *labels)

    def knows(self, concept: Concept) -> bool:
        """Says yes: any concept has wordings."""
        return bool(wordings(concept))

    def presence(self, images: Float[Tensor, "n 3 h w"], concept: Concept) -> Float[Tensor, " n"]:
        """Gives the concept's share of the softmax over concept, neighbours and alternatives."""
        own = {name.casefold().strip() for name in names(concept)}
        near = (name for name in self.neighbours if name.casefold().strip() not in own)
        asked = [concept, *(Concept(name=name, kind=concept.kind) for name in near)]
        labels = torch.cat([self._label(one) for one in asked])
        texts = torch.cat([labels, self._clip.text_features(self.alternatives)])
        cosines = self._clip.image_features(images) @ texts.T  # (n, labels)
        return (self._clip.temperature * cosines).softmax(dim=-1)[:, 0]

    def _label(self, concept: Concept) -> Float[Tensor, "1 dim"]:
        """Encodes a concept as the direction of the mean of its wordings."""
        mean = self._clip.text_features(wordings(concept)).mean(dim=0, keepdim=True)
        return functional.normalize(mean, dim=-1)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Gives CLIP's image vectors, for distances."""
        return self._clip.image_features(images)
