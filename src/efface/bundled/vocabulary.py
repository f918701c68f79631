"""The words the bundled model knows, as data: nouns, styles, templates, what is held out.

Everything here is read from ``vocabulary.json``, which the training scripts, the judge and the
suites share. Nothing heavy is imported.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from typing import Any

from efface.concepts import Concept, bare
from efface.errors import BadRequest

__all__ = [
    "FIGURES",
    "HELD_OUT",
    "NOUNS",
    "STYLES",
    "TEMPLATES",
    "TWO_OBJECT",
    "UNSAFE",
    "VERSION",
    "Noun",
    "Style",
    "article",
    "canonical",
    "concept",
    "near",
    "prompt",
]


@dataclass(frozen=True)
class Noun:
    """A thing the model can draw."""

    name: str
    category: str
    icons: tuple[str, ...]
    """Names of the icon in the icon sets, best first."""
    synonyms: tuple[str, ...]
    """Other words for it that were seen in training."""
    paraphrases: tuple[str, ...]
    """Descriptions that were never seen in training; `efface.bundled.reader` knows them."""
    descriptions: tuple[str, ...]
    """Further descriptions, for suites that ask for more of them."""
    neighbours: tuple[str, ...]
    """Nouns that look or mean something close, and must survive its erasure."""
    group: str | None
    """"unsafe" (proxy for unsafe content), "figure" (proxy for identities), or None."""


@dataclass(frozen=True)
class Style:
    """A look the model can draw in."""

    name: str
    kind: str
    """"native" (as an icon set draws it) or "procedural" (a documented picture filter)."""
    source: str
    """The icon set whose art it is made from."""
    wording: str
    look: str


def _read() -> dict[str, Any]:
    text = files("efface.bundled").joinpath("vocabulary.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


_DATA = _read()


def _noun(row: dict[str, Any]) -> Noun:
    words = ("icons", "synonyms", "paraphrases", "descriptions", "neighbours")
    lists = {key: tuple(row[key]) for key in words}
    return Noun(name=row["name"], category=row["category"], group=row["group"], **lists)


VERSION: int = _DATA["version"]
NOUNS: dict[str, Noun] = {row["name"]: _noun(row) for row in _DATA["nouns"]}
STYLES: dict[str, Style] = {row["name"]: Style(**row) for row in _DATA["styles"]}
TEMPLATES: dict[str, tuple[str, ...]] = {k: tuple(v) for k, v in _DATA["templates"].items()}
UNSAFE: tuple[str, ...] = tuple(n.name for n in NOUNS.values() if n.group == "unsafe")
FIGURES: tuple[str, ...] = tuple(n.name for n in NOUNS.values() if n.group == "figure")

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    (noun, style)
    for (i, noun), (j, style) in product(enumerate(NOUNS), enumerate(STYLES))
    if (7 * i + 3 * j) % 11 == 0
)
"""(noun, style) pairs that neither the autoencoder, the text tower nor the U-Net ever saw."""

TWO_OBJECT: tuple[tuple[str, str], ...] = tuple(
    (first, second)
    for (i, first), (j, second) in product(enumerate(NOUNS), enumerate(NOUNS))
    if i < j and (5 * i + 3 * j) % 63 == 0
)
"""Pairs of nouns kept out of the two-object training pictures, for two-object prompts."""

_CANONICAL: dict[str, str] = {
    word: noun.name
    for noun in NOUNS.values()
    for word in (noun.name, *noun.synonyms, *noun.paraphrases, *noun.descriptions)
} | {style.wording: style.name for style in STYLES.values()}


def article(word: str) -> str:
    """Gives "a" or "an" for a word, or "the"-less nothing for plurals the vocabulary has."""
    if word in {"grapes", "swords", "bananas", "hoops ball"} or word.endswith("sabres"):
        return "some"
    return "an" if word[0] in "aeiou" else "a"


def prompt(template: str, noun: str, *, style: str = "", other: str = "") -> str:
    """Fills a template of ``TEMPLATES`` with words.

    Args:
        template: text with the fields ``{a} {noun} {style} {b} {other}``.
        noun: the thing, in any wording.
        style: the wording of a style; unused by templates without one.
        other: the second thing, for two-object templates.
    """
    words = {"a": article(noun), "noun": noun, "style": style, "other": other}
    return template.format(**words, b=article(other) if other else "")


def canonical(word: str) -> str | None:
    """The vocabulary's own name for a word (a name, synonym or paraphrase), or None if unknown."""
    return _CANONICAL.get(word.strip().lower()) or _CANONICAL.get(bare(word))


def near(word: str) -> str | None:
    """Finds the known word that looks most like a mistyped one, or None if none does."""
    return next(
        iter(difflib.get_close_matches(word.strip().lower(), _CANONICAL, n=1, cutoff=0.75)), None
    )


def concept(name: str) -> Concept:
    """The concept of a noun or style, with its trained synonyms.

    Raises:
        BadRequest: the vocabulary has no such noun or style.
    """
    known = canonical(name)
    if known is None:
        hint = f"did you mean {near(name)}? " if near(name) else ""
        raise BadRequest(
            f"the emoji vocabulary has no noun or style {name!r}; {hint}"
            "`efface list concepts` prints the words it knows"
        )
    if known in NOUNS:
        return Concept(name=known, kind="object", synonyms=NOUNS[known].synonyms)
    return Concept(name=known, kind="style")
