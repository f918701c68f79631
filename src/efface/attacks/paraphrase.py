"""Synonyms and descriptions in place of the concept's name: what anyone types who knows it went."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, ClassVar

from efface.contracts import Access, Attack
from efface.errors import require_positive
from efface.revival.target import renamed
from efface.revival.trials import Course

if TYPE_CHECKING:
    import torch

    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["Paraphrase"]


@dataclass(frozen=True, kw_only=True)
class Paraphrase(Attack):
    """Puts other words in place of the concept's name: its synonyms, and wordings that are given.

    Synonyms are those of the concept, which erasures are given as well. Wordings are what the
    attacker knows beside them, such as descriptions (``Knowledge.wordings``); the two take turns. A
    trial whose prompt has no name of the concept has nothing to put them in place of and makes no
    attempt. It shows the concept only as far as the model reads the words: a description that the
    unedited model does not draw says nothing about an erasure.
    """

    name: ClassVar[str] = "paraphrase"
    access: ClassVar[Access] = "text"
    needs_name: ClassVar[bool] = True

    tries: int = 8
    """Wordings per trial, at most."""

    def __post_init__(self) -> None:
        require_positive(self, "tries")

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:  # noqa: ARG002
        """Draws each prompt with each wording in turn; nothing is drawn by chance."""
        course = Course(target)
        turns = zip_longest(target.knowledge.wordings, target.concept.synonyms)
        words = dict.fromkeys(word for turn in turns for word in turn if word)
        for word in [one for one in words if one != target.concept.name][: self.tries]:
            texts = {
                trial: text
                for trial in course.opened
                if (text := renamed(target.trials[trial], target.concept, word)) is not None
            }
            attempts = course.attempts(texts, f"'{word}' in place of the name")
            if attempts:
                course.follow((yield attempts))
