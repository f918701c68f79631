"""The judge of scenes: which nouns are in a picture, how many of each, and which is left."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from efface.bundled import weights_folder
from efface.bundled.judge import EmojiJudge
from efface.bundled.scene_wordings import Place, Shown, read
from efface.bundled.vocabulary import NOUNS, STYLES, canonical
from efface.concepts import Concept
from efface.content import content_hash
from efface.contracts import Estimate, JudgeCard
from efface.errors import MissingInput

__all__ = ["SceneJudge", "Seen", "relation"]

_SIDE = 64
_FAINT = 0.01
"""Probability below which a thing is not looked at."""


@dataclass(frozen=True)
class Seen:
    """A thing in a scene: its noun, its slot from the left, and how sure that is."""

    noun: str
    slot: int
    probability: float


class SceneJudge:
    """Shows the bundled judge a scene slot by slot: squares as high as the picture, side by side.

    A slot holds one thing at most: the most probable noun. In a square picture there is one slot.
    Its error rates on held-out scenes are on its card.
    """

    def __init__(self) -> None:
        self._judge = EmojiJudge()
        self.card = _card(weights_folder() / "scene_judge.json")
        self.identity = content_hash(type(self).__qualname__, self._judge.identity)
        """A hash of all that decides its answers."""

    def knows(self, concept: Concept) -> bool:
        """Says whether the concept is a noun or style of the vocabulary, or a phrase about a scene.

        Such a phrase is one of `efface.bundled.scene_wordings`: "a cat and an apple", "two apples",
        "a cat left of a moon".
        """
        return canonical(concept.name) is not None or read(concept.name) is not None

    @torch.no_grad()
    def presence(self, images: Float[Tensor, "n 3 h w"], concept: Concept) -> Float[Tensor, " n"]:
        """Gives the probability that each picture shows the noun, or is drawn in the style.

        Of a phrase about a scene: that of its least probable thing; 0 where there is more of a
        thing than the phrase counts, or its first thing is on the other side.

        Raises:
            BadRequest: the vocabulary has no such concept.
        """
        shown = None if canonical(concept.name) else read(concept.name)
        if shown is not None:
            return self.agreement(images, shown)
        known = canonical(concept.name)
        if known in STYLES:
            return self.probabilities(images)[1][:, list(STYLES).index(known)]
        slots = _slots(images)
        return _by_slot(self._judge.presence(slots.flatten(0, 1), concept), slots).amax(dim=1)

    @torch.no_grad()
    def agreement(self, images: Float[Tensor, "n 3 h w"], shown: Shown) -> Float[Tensor, " n"]:
        """Gives the probability that each picture is of a scene, as `presence` does."""
        nouns = self._nouns(images)
        answers = [_agrees(_things(each, _FAINT), shown, self.card.threshold) for each in nouns]
        unread = nouns.isnan().flatten(1).any(dim=1)
        return torch.tensor(answers).masked_fill(unread, torch.nan)

    def logits(self, images: Float[Tensor, "n 3 h w"], concept: Concept) -> Float[Tensor, " n"]:
        """Gives the log-odds of `presence`, differentiable by the pixels.

        Raises:
            BadRequest: the vocabulary has no such concept.
        """
        slots = _slots(images)
        each = _by_slot(self._judge.logits(slots.flatten(0, 1), concept), slots)
        if canonical(concept.name) in STYLES:
            return each.gather(1, self._surest(slots)).squeeze(1)
        return each.amax(dim=1)

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
        """Gives a probability for every noun on its own, and a distribution over styles.

        The style is that of the slot in which a noun is surest: an empty one has hardly any.
        """
        slots = _slots(images)
        nouns, styles = self._judge.probabilities(slots.flatten(0, 1))
        nouns, styles = _by_slot(nouns, slots), _by_slot(styles, slots)
        surest = nouns.amax(dim=2).argmax(dim=1)
        return nouns.amax(dim=1), styles[torch.arange(len(styles)), surest]

    @torch.no_grad()
    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Gives the mean over slots of the bundled judge's, for distances between pictures."""
        slots = _slots(images)
        return _by_slot(self._judge.features(slots.flatten(0, 1)), slots).mean(dim=1)

    def things(self, images: Float[Tensor, "n 3 h w"]) -> list[tuple[Seen, ...]]:
        """Lists what is in each picture at the card's threshold, from left to right."""
        return [_things(each, self.card.threshold) for each in self._nouns(images)]

    def counts(self, images: Float[Tensor, "n 3 h w"]) -> list[Counter[str]]:
        """Counts each noun in each picture."""
        return [Counter(seen.noun for seen in each) for each in self.things(images)]

    @torch.no_grad()
    def _nouns(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n slots nouns"]:
        slots = _slots(images)
        return _by_slot(self._judge.probabilities(slots.flatten(0, 1))[0], slots)

    @torch.no_grad()
    def _surest(self, slots: Float[Tensor, "n slots 3 64 64"]) -> Tensor:
        nouns = _by_slot(self._judge.probabilities(slots.flatten(0, 1))[0], slots)
        return nouns.amax(dim=2).argmax(dim=1, keepdim=True)


def relation(first: Seen, second: Seen) -> Place:
    """Says on which side of the second thing the first is."""
    return "left of" if first.slot < second.slot else "right of"


def _slots(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n slots 3 64 64"]:
    """Cuts pictures into squares, as many as fit best, of the size that the judge reads."""
    high, wide = images.shape[-2:]
    count = max(1, round(wide / high))
    sized = images.float()
    if (high, wide) != (_SIDE, count * _SIDE):
        size = (_SIDE, count * _SIDE)
        sized = interpolate(sized, size=size, mode="bilinear", antialias=True)
    return sized.reshape(-1, 3, _SIDE, count, _SIDE).permute(0, 3, 1, 2, 4)


def _by_slot(
    answers: Float[Tensor, "every ..."], slots: Float[Tensor, "n slots 3 64 64"]
) -> Float[Tensor, "n slots ..."]:
    """Puts answers about slots, which were asked in one row, together by picture."""
    return answers.reshape(*slots.shape[:2], *answers.shape[1:])


def _things(nouns: Float[Tensor, "slots nouns"], threshold: float) -> tuple[Seen, ...]:
    """Lists the most probable noun of each slot where it is probable enough."""
    best, which = nouns.max(dim=1)
    names = list(NOUNS)
    return tuple(
        Seen(names[noun], slot, probability)
        for slot, (probability, noun) in enumerate(zip(best.tolist(), which.tolist(), strict=True))
        if probability >= threshold  # not a number is not seen either
    )


def _agrees(seen: tuple[Seen, ...], shown: Shown, threshold: float) -> float:
    """Gives the probability that what is seen is what a phrase means."""
    answers = []
    for noun, count in Counter(shown.nouns).items():
        sure = sorted((each.probability for each in seen if each.noun == noun), reverse=True)
        over = count > 1 and len(sure) > count and sure[count] >= threshold
        answers.append(sure[count - 1] if len(sure) >= count and not over else 0.0)
    if shown.place and min(answers) > 0:
        surest = sorted(seen, key=lambda each: -each.probability)
        first, second = (next(s for s in surest if s.noun == noun) for noun in shown.nouns)
        answers.append(1.0 if relation(first, second) == shown.place else 0.0)
    return min(answers)


def _card(path: Path) -> JudgeCard:
    if not path.exists():
        raise MissingInput(
            f"{path.name} is missing beside the judge; run `python emoji/measure_scene_judge.py`"
        )
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return JudgeCard(
        name="emoji-scenes-judge",
        version=str(written["version"]),
        threshold=float(written["threshold"]),
        true_positive_rate=Estimate(**written["true_positive_rate"]),
        false_positive_rate=Estimate(**written["false_positive_rate"]),
        notes=str(written["notes"]),
    )
