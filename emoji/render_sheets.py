"""Renders what the bundled vision models read: three sheets of icons, which the package ships.

    python emoji/render_sheets.py    writes three .webp files, and beside them as JSON
                                     what is in each cell, to src/efface/bundled/pictures

``nouns`` are the vocabulary in its eight styles. ``individuals`` are icons outside the vocabulary:
each icon is one individual, and its drawings by different makers are photographs of it. ``things``
are sixteen nouns as several makers draw them, with transparency, for scenes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import efface.bundled
from efface.bundled.vocabulary import NOUNS, STYLES
from fetch import TRAINED_SETS
from icons import find, icon_set, render
from render import shows_a_noun, source
from styles import FILTERS, SIDE, on

OUT = Path(efface.bundled.__file__).parent / "pictures"
COLUMNS = 32
INDIVIDUALS, IN_HEAD, LEAST_MAKERS = 420, 100, 5
THINGS = (
    "cat", "dog", "apple", "banana", "pizza", "car", "rocket", "guitar",
    "castle", "umbrella", "sailboat", "crown", "key", "bomb", "penguin", "sunflower",
)  # fmt: skip
MAKERS = ("twemoji", "noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat")
BANNED = (
    "flag", "button", "arrow", "clock", "skin", "hand", "keycap", "face", "cat", "dog", "moon",
    "symbol", "square", "circle", "person", "woman", "man", "girl", "boy", "child", "baby",
    "family", "kiss", "couple", "sign", "mark", "number", "letter", "input", "medium", "light",
    "dark", "no-", "prohibited", "underage", "tone", "zodiac", "heart", "thirty", "finger",
    "fist", "thumb", "palms", "bikini", "hotel", "briefs", "kaaba", "mosque", "synagogue",
    "church", "star-of", "cross", "worship", "hindu", "menorah", "blood", "registered",
    "copyright", "trade", "tongue", "mouth", "worker", "officer", "teacher", "student",
    "farmer", "singer", "artist", "detective", "cook", "pilot", "judge", "guard", "princess",
    "prince", "claus", "restroom", "mens", "womens", "toilet", "closet", "beer", "wine",
    "cocktail", "drink", "pisces", "taurus", "gemini", "cancer", "leo", "virgo", "aries",
    "ophiuchus", "libra", "scorpius", "sagittarius", "capricorn", "aquarius", "breast", "yin-yang",
    "shinto", "thong", "sari", "swimsuit", "cigar", "speaking", "shaking", "skull",
    "coffin", "funeral", "military", "pinched",
)  # fmt: skip
"""Parts of names that stay out: signs, people, faiths, and what is no thing to look at."""
SEED = 20261129


def sheet(name: str, cells: Iterable[tuple[dict[str, Any], Image.Image]], mode: str) -> None:
    """Writes pictures of one size into one lossless file, with a line about each."""
    told, pictures = zip(*cells, strict=True)
    side = pictures[0].width
    rows = -(-len(pictures) // COLUMNS)
    canvas = Image.new(mode, (COLUMNS * side, rows * side))
    for place, picture in enumerate(pictures):
        canvas.paste(picture, (place % COLUMNS * side, place // COLUMNS * side))
    OUT.mkdir(exist_ok=True)
    canvas.save(OUT / f"{name}.webp", lossless=mode == "RGBA", quality=90, method=6)
    facts = {"side": side, "columns": COLUMNS, "cells": told}
    (OUT / f"{name}.json").write_text(json.dumps(facts, separators=(",", ":")) + "\n")
    print(name, len(pictures), (OUT / f"{name}.webp").stat().st_size)


def fitted(icon: Image.Image, side: int, scale: float = 0.92) -> Image.Image:
    """An icon in the middle of a transparent square."""
    inner = round(side * scale)
    small = icon.resize((inner, inner), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    canvas.paste(small, ((side - inner) // 2, (side - inner) // 2), small)
    return canvas


def nouns() -> Iterable[tuple[dict[str, Any], Image.Image]]:
    """Every noun in every style."""
    for noun in NOUNS:
        for style in STYLES:
            yield {"name": noun, "maker": style}, FILTERS[style](fitted(source(noun, style), SIDE))


def individuals() -> Iterable[tuple[dict[str, Any], Image.Image]]:
    """Icons that enough makers draw, in random order; the first ones are those of the head."""
    draw = np.random.default_rng(SEED)
    known = {n.replace("-", "") for noun in NOUNS.values() for n in noun.icons}
    every = sorted(set.union(*(set(icon_set(name)["joined"]) for name in TRAINED_SETS)) - known)
    plain = [name for name in every if not any(word.replace("-", "") in name for word in BANNED)]
    plain = [name for name in plain if name != "om" and not shows_a_noun(name)]
    chosen: list[tuple[str, dict[str, str]]] = []
    for place in draw.permutation(len(plain)):
        name = plain[place]
        held = {one: icon for one in TRAINED_SETS if (icon := find(one, (name,)))}
        if len(held) >= LEAST_MAKERS:
            chosen.append((name, held))
        if len(chosen) == INDIVIDUALS:
            break
    for number, (_, held) in enumerate(chosen):
        label = held.get("twemoji") or next(iter(held.values()))
        for maker, icon in held.items():
            picture = on((255, 255, 255), fitted(render(maker, icon), 48))
            yield {"name": label, "maker": maker, "in_head": number < IN_HEAD}, picture


def things() -> Iterable[tuple[dict[str, Any], Image.Image]]:
    """Sixteen nouns by several makers, with transparency."""
    for noun in THINGS:
        for maker in MAKERS:
            if icon := find(maker, NOUNS[noun].icons):
                yield {"name": noun, "maker": maker}, fitted(render(maker, icon), 48, scale=1.0)


def main() -> None:
    sheet("nouns", nouns(), "RGB")
    sheet("individuals", individuals(), "RGB")
    sheet("things", things(), "RGBA")


if __name__ == "__main__":
    main()
