"""Nouns in styles as candidates of a search: their names, prompts and erasures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from efface.bundled.vocabulary import HELD_OUT, NOUNS, STYLES, prompt
from efface.bundled.wordings import EDIT_PLAIN, EDIT_STYLED, EVALUATION_STYLED
from efface.concepts import Concept, Erasure, ErasureRequest
from efface.errors import BadRequest

__all__ = ["Pair", "pairs", "request_for"]


@dataclass(frozen=True)
class Pair:
    """A noun of the vocabulary in one of its styles."""

    noun: str
    style: str

    @property
    def name(self) -> str:
        """What it is called; a prompt of training, too."""
        return prompt(EDIT_STYLED[1], self.noun, style=STYLES[self.style].wording)

    @property
    def concept(self) -> Concept:
        """The concept of this noun in this style alone, in the wordings that edits may use."""
        style = STYLES[self.style].wording
        written = tuple(prompt(text, self.noun, style=style) for text in EDIT_STYLED)
        return Concept(
            name=self.name,
            prompts=written,
            synonyms=(f"{self.noun}, {style} style", f"{style} {self.noun}"),
        )

    def evaluated(self, number: int) -> str:
        """Gives a prompt that no edit uses, turning through the wordings."""
        text = EVALUATION_STYLED[number % len(EVALUATION_STYLED)]
        return prompt(text, self.noun, style=STYLES[self.style].wording)


def pairs(count: int) -> tuple[Pair, ...]:
    """Lists pairs that the model was trained on: nouns of mixed categories, each in all styles.

    Raises:
        BadRequest: there are fewer.
    """
    nouns = [list(NOUNS)[(17 * place) % len(NOUNS)] for place in range(len(NOUNS))]
    every = [Pair(n, s) for n in nouns for s in STYLES if (n, s) not in HELD_OUT]
    if not 1 <= count <= len(every):
        raise BadRequest(f"the vocabulary has 1 to {len(every)} nouns in styles, not {count}")
    return tuple(every[:count])


def request_for(erased: Sequence[Pair]) -> ErasureRequest:
    """Writes the request that erases pairs and keeps all others, and all nouns without a style."""
    erasures = tuple(Erasure(concept=pair.concept) for pair in erased)
    return ErasureRequest(erasures=erasures, keep=_kept(set(erased)))


def _kept(erased: set[Pair]) -> tuple[Concept, ...]:
    found = []
    for shift, noun in enumerate(NOUNS):
        written = [prompt(text, noun) for text in EDIT_PLAIN]
        for place, style in enumerate(STYLES.values()):
            if Pair(noun, style.name) not in erased:
                text = EDIT_STYLED[(place + shift) % len(EDIT_STYLED)]
                written.append(prompt(text, noun, style=style.wording))
        found.append(replace(Concept(name=noun), prompts=tuple(written)))
    return tuple(found)
