"""Draws scenes of one to three icons in a row of slots, and writes captions for them.

A slot is a picture of the bundled model's training: an icon at its size, moved as there, in its
style, or the background of the style. One thing is in the middle, two are in the outer slots, in
the order of a caption's words. Every thing of a scene is in one style. A caption names no style
where a scene is in the first of PLAIN that its nouns have, so that a prompt without a style means
one look.
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
from efface.bundled.scene_wordings import (
    SLOTS_OF,
    countable,
    counted,
    held_out,
    placed,
    styled,
    together,
)
from efface.bundled.scenes import SIDE, SLOTS
from efface.bundled.vocabulary import HELD_OUT, NOUNS, STYLES, TEMPLATES, prompt
from render import jitter, source
from styles import FILTERS

PLAIN = ("twemoji", "3d", "black and white")
"""Styles of scenes whose captions need not name it, first choice first."""
SCALE = (0.86, 1.0)
"""Sizes of icons in their slots, as `render` has them."""
STYLED = {"alone": 0.55, "several": 0.15}
"""Share of scenes in any of the styles, which their captions name."""


@dataclass(frozen=True)
class Drawn:
    """What a scene shows, from left to right, and in which style."""

    nouns: tuple[str, ...]
    style: str
    plain: bool
    """Whether captions leave the style out."""

    @property
    def slots(self) -> tuple[str | None, ...]:
        """The noun in each slot, from left to right; None in an empty one."""
        there = dict(zip(SLOTS_OF[len(self.nouns)], self.nouns, strict=True))
        return tuple(there.get(slot) for slot in range(SLOTS))


@cache
def art(noun: str, style: str) -> Image.Image:
    """The icon of a noun that a style is made from, with transparency."""
    return source(noun, style)


def styles_of(nouns: tuple[str, ...]) -> list[str]:
    """Styles that none of the nouns is held out of."""
    return [style for style in STYLES if not any((noun, style) in HELD_OUT for noun in nouns)]


def chosen_nouns(draw: np.random.Generator, *, count: int, same: bool) -> tuple[str, ...]:
    """Nouns that may be shown together: no pair that is kept out, no style that all lack."""
    names, single = list(NOUNS), countable()
    while True:
        if same:
            return (single[int(draw.integers(len(single)))],) * count
        nouns = tuple(names[i] for i in draw.choice(len(names), count, replace=False).tolist())
        if not held_out(nouns) and styles_of(nouns):
            return nouns


def scene(draw: np.random.Generator, *, count: int, same: bool = False) -> Drawn:
    """A scene of some nouns, all different or all the same."""
    nouns = chosen_nouns(draw, count=count, same=same)
    allowed = styles_of(nouns)
    likely = [style for style in PLAIN if style in allowed]
    plain = bool(draw.random() >= STYLED["alone" if count == 1 else "several"]) and bool(likely)
    style = likely[0] if plain else allowed[int(draw.integers(len(allowed)))]
    return Drawn(nouns, style, plain)


def scenes(draw: np.random.Generator) -> Iterator[Drawn]:
    """Scenes for training, without end: mostly of one thing or of two."""
    while True:
        kind = draw.random()
        if kind < 0.35:
            yield scene(draw, count=1)
        elif kind < 0.80:
            yield scene(draw, count=2)
        elif kind < 0.92:
            yield scene(draw, count=3)
        else:
            yield scene(draw, count=2 if draw.random() < 0.6 else 3, same=True)


def view(icon: Image.Image | None, style: str, draw: np.random.Generator) -> Image.Image:
    """A slot with an icon, or with nothing, in a style."""
    if icon is None:
        return FILTERS[style](Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)))
    return FILTERS[style](jitter(icon, draw, scale=SCALE))


def row(views: list[Image.Image]) -> Image.Image:
    """Slots side by side."""
    canvas = Image.new("RGB", (SIDE * len(views), SIDE))
    for slot, each in enumerate(views):
        canvas.paste(each, (SIDE * slot, 0))
    return canvas


def picture(drawn: Drawn, draw: np.random.Generator) -> Image.Image:
    """The scene in its style."""
    icons = [noun and art(noun, drawn.style) for noun in drawn.slots]
    return row([view(icon or None, drawn.style, draw) for icon in icons])


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
    words = [word(noun, generator) if chance(0.3, generator) else noun for noun in nouns]
    if len(words) == 2:
        if chance(0.25, generator):
            left, right = words
            turned = chance(0.5, generator)
            phrase = placed(right, "right of", left) if turned else placed(left, "left of", right)
            return styled(phrase, look) if look else phrase
        if look:
            template = pick(TEMPLATES["two_objects"], generator)
            return prompt(template, words[0], style=look, other=words[1])
    phrase = together(words)
    return styled(phrase, look) if look else phrase
