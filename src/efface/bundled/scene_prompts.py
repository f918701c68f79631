"""Prompts that measure scenes: pairs and triples of nouns that training never showed together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, cycle, islice
from typing import get_args

from efface.bundled.scene_wordings import (
    COUNT_WORDS,
    Place,
    Shown,
    countable,
    counted,
    held_out,
    placed,
    styled,
    together,
)
from efface.bundled.vocabulary import HELD_OUT, NOUNS, STYLES, TEMPLATES, TWO_OBJECT, prompt

__all__ = ["Wanted", "alone", "counts", "pairs", "positions", "triples"]


@dataclass(frozen=True)
class Wanted:
    """A prompt and what a picture of it must show."""

    prompt: str
    shown: Shown
    style: str | None = None

    @property
    def nouns(self) -> tuple[str, ...]:
        """Nouns, each as often as it must be there."""
        return self.shown.nouns

    @property
    def place(self) -> Place | None:
        """Where the first must be, seen from the second."""
        return self.shown.place


def alone(count: int, *, style: bool) -> tuple[Wanted, ...]:
    """Asks for single things, every noun in turn, in styles they were trained in, or in none."""
    found = []
    for place in range(count):
        turn, index = divmod(place, len(NOUNS))
        noun = list(NOUNS)[index]
        looks = [each for each in STYLES if (noun, each) not in HELD_OUT]
        look = looks[(index + 3 * turn) % len(looks)]
        if style:
            text = prompt(TEMPLATES["trained"][0], noun, style=STYLES[look].wording)
            found.append(Wanted(text, Shown((noun,)), look))
        else:
            text = prompt(TEMPLATES["trained_without_style"][1], noun)
            found.append(Wanted(text, Shown((noun,))))
    return tuple(found)


def pairs(count: int, *, style: bool = False) -> tuple[Wanted, ...]:
    """Asks for two things in either order, in turn."""
    ordered = [*TWO_OBJECT, *((second, first) for first, second in TWO_OBJECT)]
    looks = cycle(STYLES)
    found = []
    for nouns in islice(cycle(ordered), count):
        look = next(each for each in looks if not any((n, each) in HELD_OUT for n in nouns))
        text = together(nouns)
        text = styled(text, STYLES[look].wording) if style else text
        found.append(Wanted(text, Shown(nouns), look if style else None))
    return tuple(found)


def triples(count: int) -> tuple[Wanted, ...]:
    """Asks for three things, of which two are a held-out pair; spread over the vocabulary."""
    every = [three for three in combinations(NOUNS, 3) if held_out(three)]
    stride = max(1, len(every) // count)
    return tuple(Wanted(together(three), Shown(three)) for three in every[::stride][:count])


def positions(count: int) -> tuple[Wanted, ...]:
    """Asks for two things and where the first of them is, in turn."""
    ordered = [*TWO_OBJECT, *((second, first) for first, second in TWO_OBJECT)]
    places: tuple[Place, ...] = get_args(Place)
    found = []
    for number, nouns in enumerate(islice(cycle(ordered), count)):
        where = places[number % len(TWO_OBJECT) % len(places)]  # both orders: two scenes
        found.append(Wanted(placed(nouns[0], where, nouns[1]), Shown(nouns, where)))
    return tuple(found)


def counts(count: int) -> tuple[Wanted, ...]:
    """Asks for two and three of one thing, spread over the vocabulary."""
    nouns = countable()
    found = []
    for number in range(count):
        noun = nouns[(7 * number) % len(nouns)]
        many = list(COUNT_WORDS)[number % len(COUNT_WORDS)]
        found.append(Wanted(counted(noun, many), Shown((noun,) * many)))
    return tuple(found)
