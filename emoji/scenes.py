"""Draws scenes of one to three icons, and writes captions for them.

Every thing of a scene is in one style. A caption names no style where a scene is in the first of
PLAIN that its nouns have, so that a prompt without a style means one look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from captions import caption, chance, pick, word
from efface.bundled.scene_judge import Seen, relation
from efface.bundled.scene_wordings import (
    countable,
    counted,
    held_out,
    placed,
    styled,
    together,
)
from efface.bundled.vocabulary import HELD_OUT, NOUNS, STYLES, TEMPLATES, prompt
from render import source
from styles import FILTERS

SIDE = 96
"""Pixels of a scene."""
PLAIN = ("twemoji", "3d", "black and white")
"""Styles of scenes whose captions need not name it, first choice first."""
SIZES = (42, 49)
"""Pixels of an icon in a scene of several, from and below."""
ALONE = (46, 62)
"""Pixels of an icon alone."""


@dataclass(frozen=True)
class Placed:
    """A noun in a scene: centre and side in pixels."""

    noun: str
    across: int
    down: int
    side: int

    @property
    def seen(self) -> Seen:
        """The thing as the judge of scenes tells it."""
        return Seen(self.noun, self.across / SIDE, self.down / SIDE, 1.0)


@dataclass(frozen=True)
class Drawn:
    """What a scene shows, in reading order, and in which style."""

    things: tuple[Placed, ...]
    style: str
    plain: bool
    """Whether captions leave the style out."""

    @property
    def nouns(self) -> list[str]:
        return [thing.noun for thing in self.things]


@cache
def art(noun: str, style: str) -> Image.Image:
    """The icon of a noun that a style is made from, with transparency."""
    return source(noun, style)


def styles_of(nouns: list[str]) -> list[str]:
    """Styles that none of the nouns is held out of."""
    return [style for style in STYLES if not any((noun, style) in HELD_OUT for noun in nouns)]


def centres(count: int, draw: np.random.Generator) -> list[tuple[int, int]]:
    """Places for some things on a grid of two by two, slightly moved, in reading order."""
    middle, quarter = SIDE // 2, SIDE // 4
    far = SIDE - quarter
    if count == 1:
        places = [(middle, middle)]
        return [(x + int(draw.integers(-9, 10)), y + int(draw.integers(-9, 10))) for x, y in places]
    if count == 2 and draw.random() < 0.7:
        lag = int(draw.integers(-12, 13))
        row = [(quarter, middle + lag), (far, middle + lag)]
        places = row if draw.random() < 0.6 else [(y, x) for x, y in row]
    else:
        corners = [(x, y) for y in (quarter, far) for x in (quarter, far)]
        chosen = sorted(draw.choice(4, count, replace=False).tolist())
        places = [corners[place] for place in chosen]
    return [(x + int(draw.integers(-2, 3)), y + int(draw.integers(-2, 3))) for x, y in places]


def chosen_nouns(draw: np.random.Generator, *, count: int, same: bool) -> list[str]:
    """Nouns that may be shown together: no pair that is kept out, no style that all lack."""
    names, single = list(NOUNS), countable()
    while True:
        if same:
            return [single[int(draw.integers(len(single)))]] * count
        nouns = [names[i] for i in draw.choice(len(names), count, replace=False).tolist()]
        if not held_out(nouns) and styles_of(nouns):
            return nouns


def scene(draw: np.random.Generator, *, count: int, same: bool = False) -> Drawn:
    """A scene of some nouns, all different or all the same."""
    nouns = chosen_nouns(draw, count=count, same=same)
    allowed = styles_of(nouns)
    plain = bool(draw.random() < 0.45)
    likely = [style for style in PLAIN if style in allowed]
    plain = plain and bool(likely)
    style = likely[0] if plain else allowed[int(draw.integers(len(allowed)))]
    sizes = ALONE if count == 1 else SIZES
    things = tuple(
        Placed(noun, x, y, int(draw.integers(*sizes)))
        for noun, (x, y) in zip(nouns, centres(count, draw), strict=True)
    )
    return Drawn(things, style, plain)


def picture(drawn: Drawn) -> Image.Image:
    """The scene in its style."""
    canvas = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    for thing in drawn.things:
        icon = art(thing.noun, drawn.style)
        small = icon.resize((thing.side, thing.side), Image.Resampling.LANCZOS)
        corner = (thing.across - thing.side // 2, thing.down - thing.side // 2)
        layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
        layer.paste(small, corner)
        canvas = Image.alpha_composite(canvas, layer)
    return FILTERS[drawn.style](canvas)


def scenes(count: int, seed: int) -> Iterator[Drawn]:
    """Scenes for training: three in ten of one thing, one in eight of several of a kind."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        kind = draw.random()
        if kind < 0.30:
            yield scene(draw, count=1)
        elif kind < 0.69:
            yield scene(draw, count=2)
        elif kind < 0.88:
            yield scene(draw, count=3)
        else:
            yield scene(draw, count=2 if draw.random() < 0.6 else 3, same=True)


def caption_of(drawn: Drawn, generator: torch.Generator) -> str:
    """A caption: what there is, how many of it, or where one is of the other."""
    look = "" if drawn.plain else STYLES[drawn.style].wording
    nouns = drawn.nouns
    if len(nouns) == 1:
        label: dict[str, Any] = {"nouns": nouns, "style": drawn.style}
        return caption(label, generator, styleless=1.0 if drawn.plain else 0.0)
    if len(set(nouns)) < len(nouns):
        phrase = counted(nouns[0], len(nouns))
        return styled(phrase, look) if look else phrase
    order = list(range(len(nouns)))
    if chance(0.25, generator):
        order = torch.randperm(len(nouns), generator=generator).tolist()
    words = [word(nouns[i], generator) if chance(0.3, generator) else nouns[i] for i in order]
    things = [drawn.things[i] for i in order]
    if len(words) == 2:
        place = relation(things[0].seen, things[1].seen)
        if place and chance(0.35, generator):
            turned = chance(0.5, generator)
            pair = (1, 0) if turned else (0, 1)
            place = relation(things[pair[0]].seen, things[pair[1]].seen)
            assert place
            phrase = placed(words[pair[0]], place, words[pair[1]])
            return styled(phrase, look) if look else phrase
        if look:
            template = pick(TEMPLATES["two_objects"], generator)
            return prompt(template, words[0], style=look, other=words[1])
    phrase = together(words)
    return styled(phrase, look) if look else phrase
