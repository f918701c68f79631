"""The bundled judge: which nouns of the vocabulary are in a picture, and in which style."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from efface.bundled import weights_folder
from efface.bundled.remix import turned
from efface.bundled.vision import load_network
from efface.bundled.vocabulary import NOUNS, STYLES, canonical
from efface.concepts import Concept
from efface.content import content_hash
from efface.contracts import Estimate, JudgeCard
from efface.errors import BadRequest, MissingInput

__all__ = ["FILES", "LEFTOVER", "EmojiJudge", "JudgeName"]

JudgeName: TypeAlias = Literal[
    "emoji", "emoji-second", "emoji-remix", "emoji-leftover", "emoji-remix-leftover"
]
FILES: dict[JudgeName, str] = {"emoji": "judge", "emoji-second": "second_judge"}
"""Weights and card of each judge; the second is of another build and seed, for agreement. The judge
of emoji-remix is the first, shown its pictures turned back."""
LEFTOVER = "leftover"
"""Card of the judge of leftovers, which is the first judge, read at a lower threshold."""

_PART = 128
"""Images judged at once."""


class EmojiJudge:
    """A convolutional classifier: a probability for every noun on its own, and one style.

    It was trained on real pictures and their reconstructions, with a rejection set of pictures that
    show no vocabulary noun; its error rates are measured, and are on its card. Pictures are 64 x
    64; others are resized.

    Args:
        name: ``emoji``, or ``emoji-second`` for a network of another build and seed, or
            ``emoji-remix`` for pictures of that model. Turning them back is exact, so the rates of
            the first judge's card are its rates on turned real pictures too. ``emoji-leftover``
            (and ``emoji-remix-leftover``) sees what is left of erased nouns, whole or half; it
            also sees something in more pictures where the noun is gone.
    """

    def __init__(self, name: JudgeName = "emoji") -> None:
        self._nouns_only = name.endswith("-leftover")
        self._turns = name.startswith("emoji-remix")
        file = FILES.get(name, FILES["emoji"])
        self._network = load_network(weights_folder() / f"{file}.safetensors")
        self.card = _card(weights_folder() / f"{LEFTOVER if self._nouns_only else file}.json", name)
        self.identity = content_hash(type(self).__qualname__, self._network, self._turns)
        """A hash of all that decides its answers."""

    def knows(self, concept: Concept) -> bool:
        """Says whether the concept is a noun or style of the vocabulary, under any of its names."""
        known = canonical(concept.name)
        return known in NOUNS if self._nouns_only else known is not None

    @cached_property
    def leftovers(self) -> EmojiJudge:
        """Gives the judge of what is left of erased nouns in this judge's pictures."""
        if self._nouns_only:
            return self
        return EmojiJudge("emoji-remix-leftover" if self._turns else "emoji-leftover")

    @torch.no_grad()
    def presence(self, images: Float[Tensor, "n 3 h w"], concept: Concept) -> Float[Tensor, " n"]:
        """Gives the probability that each picture shows the noun, or is drawn in the style.

        Raises:
            BadRequest: the vocabulary has no such concept.
        """
        known = self._known(concept)
        nouns, styles = self.probabilities(images)
        if known in NOUNS:
            return nouns[:, list(NOUNS).index(known)]
        return styles[:, list(STYLES).index(known)]

    def logits(self, images: Float[Tensor, "n 3 h w"], concept: Concept) -> Float[Tensor, " n"]:
        """Gives the log-odds of `presence`, differentiable by the pixels.

        Raises:
            BadRequest: the vocabulary has no such concept.
        """
        known = self._known(concept)
        output = torch.cat([self._network(part) for part in self._parts(images)])
        if known in NOUNS:
            return output[:, list(NOUNS).index(known)]
        styles, place = output[:, len(NOUNS) :], list(STYLES).index(known)
        others = torch.cat([styles[:, :place], styles[:, place + 1 :]], dim=1)
        return styles[:, place] - others.logsumexp(dim=1)

    def _known(self, concept: Concept) -> str:
        known = canonical(concept.name)
        if known is None or not self.knows(concept):
            raise BadRequest(
                f"{self.card.name} cannot recognise '{concept.name}'; "
                "`efface list concepts` prints what it knows, or pass another judge"
            )
        return known

    def names(
        self, images: Float[Tensor, "n 3 h w"], like: Concept
    ) -> dict[str, Float[Tensor, " n"]]:
        """Gives each picture's probability of every noun, or of every style if ``like`` is one."""
        nouns, styles = self.probabilities(images)
        if canonical(like.name) in STYLES:
            return {name: styles[:, place] for place, name in enumerate(STYLES)}
        return {name: nouns[:, place] for place, name in enumerate(NOUNS)}

    @torch.no_grad()
    def probabilities(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n nouns"], Float[Tensor, "n styles"]]:
        """Gives a probability for every noun on its own, and a distribution over styles."""
        output = torch.cat([self._network(part) for part in self._parts(images)])
        return output[:, : len(NOUNS)].sigmoid(), output[:, len(NOUNS) :].softmax(dim=1)

    @torch.no_grad()
    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Gives the vectors under the read-out, for distances between pictures and sets of them."""
        return torch.cat([self._network.features(part) for part in self._parts(images)])

    def _parts(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, ...]:
        """Gives pictures as the network takes them, some at a time."""
        sized = _resized(images)
        seen = turned(sized) if self._turns else sized
        return tuple(seen.split(_PART))


def _resized(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 64 64"]:
    if images.shape[-2:] == (64, 64):
        return images.float()
    return torch.nn.functional.interpolate(
        images.float(), size=(64, 64), mode="bilinear", antialias=True
    )


def _card(path: Path, name: JudgeName) -> JudgeCard:
    if not path.exists():
        raise MissingInput(f"{path.name} is missing beside the judge; run `make -C emoji measure`")
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return JudgeCard(
        name=f"{name}-judge",
        version=str(written["version"]),
        threshold=float(written["threshold"]),
        true_positive_rate=Estimate(**written["true_positive_rate"]),
        false_positive_rate=Estimate(**written["false_positive_rate"]),
        notes=str(written["notes"]),
        leftovers_missed={
            style: Estimate(**rate) for style, rate in written.get("leftovers_missed", {}).items()
        },
    )
