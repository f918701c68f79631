"""Typos, capitals, hyphens, homoglyphs in the concept's name: cheap ways around a list of words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from efface.contracts import Access, Attack
from efface.errors import BadRequest, require_positive
from efface.revival.target import renamed
from efface.revival.trials import Course, trial_draws

if TYPE_CHECKING:
    from efface.contracts import Attempts
    from efface.revival.target import Target

__all__ = ["KINDS", "CharacterNoise", "unreadable"]

HOMOGLYPHS = str.maketrans("aceiopxyACEHIKMOPTX", "асеіорхуАСЕНІКМОРТХ")  # noqa: RUF001
"""Latin letters and Cyrillic ones that look the same."""
DIGITS = str.maketrans("aeilost", "4311057")
"""Letters and digits that stand for them."""

KINDS: Mapping[str, Callable[[str, int], str]] = {
    "capitals": lambda word, _: word.upper(),
    "plural": lambda word, _: word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s"),
    "dropped letter": lambda word, at: word[:at] + word[at + 1 :],
    "doubled letter": lambda word, at: word[: at + 1] + word[at:],
    "swapped letters": lambda word, at: word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :],
    "hyphen": lambda word, at: f"{word[:at]}-{word[at:]}",
    "space": lambda word, at: f"{word[:at]} {word[at:]}",
    "letters apart": lambda word, _: " ".join(word),
    "digits": lambda word, _: word.translate(DIGITS),
    "homoglyph": lambda word, _: word.translate(HOMOGLYPHS),
}
"""What is done to the name, given a place in it that is neither its first letter nor past its last.
"""
ORDER = "word order"
"""The name comes first and the rest of the prompt after it."""


@dataclass(frozen=True, kw_only=True)
class CharacterNoise(Attack):
    """Misspells the concept's name in each prompt, in one way after another.

    Each way is drawn once per trial, at a place in the name that is drawn by chance. What the
    tokenizer reads as the same tokens as before (capitals, of most CLIP tokenizers) would give the
    same picture and is left out. What it has no tokens for is drawn all the same and said in the
    note: a byte-level tokenizer such as that of Stable Diffusion reads everything, the bundled
    model's has neither digits nor hyphens nor letters of other scripts. A trial whose prompt has no
    name of the concept makes no attempt.
    """

    name: ClassVar[str] = "character_noise"
    access: ClassVar[Access] = "text"
    needs_name: ClassVar[bool] = True

    kinds: tuple[str, ...] = (*KINDS, ORDER)
    """What is tried, in this order."""
    tries: int = 8
    """Misspellings per trial, at most."""

    def __post_init__(self) -> None:
        require_positive(self, "tries")
        if unknown := [kind for kind in self.kinds if kind not in (*KINDS, ORDER)]:
            raise BadRequest(
                f"'{unknown[0]}' is not a kind of character noise; known: "
                f"{', '.join((*KINDS, ORDER))}"
            )

    def attempts(self, target: Target, *, generator: torch.Generator) -> Attempts:
        """Draws where each name is changed for all kinds at once, then tries them in turn."""
        course, name = Course(target), target.concept.name
        span = max(1, len(name) - 1)
        places = [
            1 + torch.randint(span, (len(KINDS),), generator=one)
            for one in trial_draws(target, generator)
        ]
        for kind in self.kinds:
            texts = {}
            for trial in course.opened:
                place = int(places[trial][list(KINDS).index(kind)]) if kind in KINDS else 0
                text = self._changed(target, trial, kind, min(place, len(name) - 1))
                if text is not None and not _reads_alike(target, text, trial):
                    texts[trial] = text
            unread = any(unreadable(target.model, text) for text in texts.values())
            note = f"{kind}, which no tokenizer of the model reads whole" if unread else kind
            attempts = course.attempts(texts, note)
            if attempts:
                course.follow((yield attempts))

    def _changed(self, target: Target, trial: int, kind: str, place: int) -> str | None:
        """Gives a trial's prompt with its name changed; None where it has none."""
        sample, name = target.trials[trial], target.concept.name
        if kind != ORDER:
            return renamed(sample, target.concept, KINDS[kind](name, place))
        rest = renamed(sample, target.concept, "")
        return None if rest is None else " ".join(f"{name} {rest}".split())


def unreadable(model: Any, text: str) -> bool:
    """Says whether every tokenizer of a model has letters in a text that it has no token for."""
    tokenizers = [getattr(model, f"tokenizer{suffix}", None) for suffix in ("", "_2", "_3")]
    return all(
        one.unk_token_id in one(text, add_special_tokens=False)["input_ids"]
        for one in tokenizers
        if one is not None
    )


def _reads_alike(target: Target, text: str, trial: int) -> bool:
    read = target.denoiser.text.tokenised
    return read(text).ids == read(target.trials[trial].prompt).ids
