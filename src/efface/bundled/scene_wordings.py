"""Prompts of scenes: several things in one picture, how many of one, and where one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeAlias, get_args

from efface.bundled.vocabulary import NOUNS, TWO_OBJECT, article, canonical
from efface.errors import BadRequest

__all__ = [
    "COUNT_WORDS",
    "KEPT_OUT",
    "SLOTS_OF",
    "Place",
    "Shown",
    "countable",
    "counted",
    "held_out",
    "placed",
    "plural",
    "read",
    "styled",
    "together",
]

Place: TypeAlias = Literal["left of", "right of"]


@dataclass(frozen=True)
class Shown:
    """What a phrase about a scene means."""

    nouns: tuple[str, ...]
    """Each as often as it is there."""
    place: Place | None = None
    """Where the first is, seen from the second."""


COUNT_WORDS = {2: "two", 3: "three"}
"""How many of one thing a scene can show, in words."""
SLOTS_OF: dict[int, tuple[int, ...]] = {1: (1,), 2: (0, 2), 3: (0, 1, 2)}
"""Which of a scene's three slots, from the left, some things are in, in the order of their words;
"a moon right of a cat" has the cat in the left one."""
KEPT_OUT: frozenset[frozenset[str]] = frozenset(frozenset(pair) for pair in TWO_OBJECT)
"""Pairs of nouns that no scene of training shows together, alone or beside a third thing."""

_MOST = 3
_PLURALS = {
    "butterfly": "butterflies",
    "strawberry": "strawberries",
    "coffee": "coffees",
    "cactus": "cactuses",
    "bus": "buses",
    "knife": "knives",
    "octopus": "octopuses",
    "grapes": "grapes",
    "swords": "swords",
    "bow and arrow": "bows and arrows",
    "superhero": "superheroes",
}
_NOT_COUNTED = frozenset({"grapes", "swords"})
"""Nouns that are several things already."""


def plural(noun: str) -> str:
    """Gives the plural of a noun of the vocabulary.

    Raises:
        BadRequest: the noun is not in the vocabulary, or several things already ("grapes").
    """
    if noun not in NOUNS or noun in _NOT_COUNTED:
        raise BadRequest(f"'{noun}' cannot be counted; take a noun of the vocabulary, in singular")
    return _PLURALS.get(noun, f"{noun}s")


def countable() -> tuple[str, ...]:
    """Lists the nouns that a scene can show two or three of."""
    return tuple(noun for noun in NOUNS if noun not in _NOT_COUNTED)


def together(words: Sequence[str]) -> str:
    """Names one to three things: "a cat, an apple and a moon".

    Raises:
        BadRequest: there are none, or more than three.
    """
    if not 1 <= len(words) <= _MOST:
        raise BadRequest(f"a scene shows one to three things, not {len(words)}")
    named = [f"{article(word)} {word}" for word in words]
    return " and ".join([", ".join(named[:-1]), named[-1]] if named[1:] else named)


def counted(noun: str, count: int) -> str:
    """Names several of one thing: "two apples".

    Raises:
        BadRequest: the count is none of `COUNT_WORDS`, or the noun cannot be counted.
    """
    if count not in COUNT_WORDS:
        raise BadRequest(f"a scene shows two or three of one thing, not {count}")
    return f"{COUNT_WORDS[count]} {plural(noun)}"


def placed(first: str, place: Place, second: str) -> str:
    """Says where one thing is: "a cat left of a moon".

    Raises:
        BadRequest: there is no such place.
    """
    if place not in get_args(Place):
        raise BadRequest(f"'{place}' is no place; choose {', '.join(get_args(Place))}")
    return f"{article(first)} {first} {place} {article(second)} {second}"


def styled(phrase: str, style: str) -> str:
    """Adds the wording of a style to the words of a scene."""
    return f"{phrase}, {style} style"


def held_out(nouns: Sequence[str]) -> bool:
    """Says whether training showed no scene with all these nouns, by the rule of `KEPT_OUT`."""
    return any(frozenset(pair) in KEPT_OUT for pair in combinations(nouns, 2))


def read(phrase: str) -> Shown | None:
    """Reads a phrase that this module writes; None for others, and for a single thing.

    Things may have any name that the vocabulary knows.
    """
    for place in get_args(Place):
        before, found, after = phrase.partition(f" {place} ")
        if found:
            first, second = _noun(before), _noun(after)
            known = first in NOUNS and second in NOUNS
            return Shown((str(first), str(second)), place) if known else None
    for count, many in COUNT_WORDS.items():
        named = {counted(noun, count): noun for noun in countable()}
        if phrase in named and phrase.startswith(many):
            return Shown((named[phrase],) * count)
    return _together(phrase)


def _noun(words: str) -> str | None:
    """Finds the noun that a word with its article means."""
    return canonical(words.removeprefix("some ")) if words.strip() else None


def _together(phrase: str) -> Shown | None:
    """Reads what `together` writes; a noun that has an "and" in it is one thing."""
    for noun in (noun for noun in NOUNS if " and " in noun):
        phrase = phrase.replace(noun, noun.replace(" and ", " & "))
    words = phrase.replace(", ", " and ").split(" and ")
    nouns = [_noun(word.replace(" & ", " and ")) for word in words]
    if not 2 <= len(nouns) <= _MOST or any(noun not in NOUNS for noun in nouns):
        return None
    return Shown(tuple(str(noun) for noun in nouns))
