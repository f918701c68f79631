"""Renders the training pictures: every noun in every style and several views, and pairs.

    python emoji/render.py           writes emoji/work/pictures.safetensors and pictures.json

Strangers are icons outside the vocabulary; they widen the autoencoder's and the judge's experience.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from efface.bundled.vocabulary import HELD_OUT, NOUNS, STYLES, TWO_OBJECT
from fetch import UNSEEN_SETS, WORK
from icons import REVOLVERS, find, icon_set, render
from styles import FILTERS, SIDE

VIEWS = 8
STRANGERS = 480
FURTHER_STRANGERS = 620
"""Drawn after everything else and once a style; the judge needs more of them than the rest."""
PAIRS = 4000
SEED = 20261125


def jitter(
    icon: Image.Image, draw: np.random.Generator, *, scale: tuple[float, float]
) -> Image.Image:
    """The icon at a random size and place on a transparent canvas of the final size."""
    side = round(SIDE * draw.uniform(*scale))
    small = icon.resize((side, side), Image.Resampling.LANCZOS)
    slack = (SIDE - side) // 2
    left, top = slack + draw.integers(-3, 4), slack + draw.integers(-3, 4)
    canvas = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    canvas.paste(small, (int(left), int(top)), small)
    return canvas


def side_by_side(first: Image.Image, second: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Two half-size icons, left and right, slightly moved."""
    canvas = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    for left, icon in ((1, first), (33, second)):
        small = icon.resize((30, 30), Image.Resampling.LANCZOS)
        place = (left + int(draw.integers(-1, 2)), 17 + int(draw.integers(-3, 4)))
        canvas.paste(small, place, small)
    return canvas


def source(noun: str, style: str) -> Image.Image:
    """The art a style of a noun is made from."""
    set_name = STYLES[style].source
    if noun == "pistol" and STYLES[style].kind == "procedural":
        set_name = REVOLVERS.get(set_name, set_name)
    icon = find(set_name, NOUNS[noun].icons)
    if icon is None:
        raise SystemExit(f"{set_name} has no icon for {noun!r}")
    return render(set_name, icon)


def strangers(draw: np.random.Generator) -> list[str]:
    """Icon names that every trained set has and the vocabulary does not use, in random order."""
    known = {n.replace("-", "") for noun in NOUNS.values() for n in noun.icons}
    sets = sorted({style.source for style in STYLES.values()})
    shared = set.intersection(*(set(icon_set(name)["joined"]) for name in sets)) - known
    banned = ("flag", "button", "arrow", "clock", "skin", "hand", "keycap", "face", "cat", "dog")
    plain = sorted(name for name in shared if not any(word in name for word in banned))
    return [plain[i] for i in draw.permutation(len(plain))]


def shows_a_noun(icon: str) -> bool:
    """Whether an icon's name holds a word of the vocabulary, as "manvampire" does."""
    words = {word for noun in NOUNS.values() for word in (noun.name, *noun.synonyms)}
    return any(word.replace(" ", "") in icon for word in words)


Row = tuple[dict[str, object], Image.Image]
Art = dict[tuple[str, str], Image.Image]


def nouns(art: Art, draw: np.random.Generator) -> Iterator[Row]:
    """Every noun in every style, ``VIEWS`` times."""
    for (noun, style), icon in art.items():
        label = dict(kind="noun", nouns=[noun], style=style, held_out=(noun, style) in HELD_OUT)
        for view in range(VIEWS):
            yield label | {"view": view}, FILTERS[style](jitter(icon, draw, scale=(0.86, 1.0)))


def outsiders(names: list[str], draw: np.random.Generator, *, views: int) -> Iterator[Row]:
    """Icons outside the vocabulary in every style; those that show a noun after all are told."""
    for name in names:
        kind = "lookalike" if shows_a_noun(name) else "stranger"
        for style in STYLES:
            icons = icon_set(STYLES[style].source)["joined"]
            icon = render(STYLES[style].source, icons[name])
            for view in range(views):
                picture = FILTERS[style](jitter(icon, draw, scale=(0.86, 1.0)))
                yield dict(kind=kind, nouns=[], icon=name, style=style, view=view), picture


def pairs(art: Art, draw: np.random.Generator) -> Iterator[Row]:
    """Two nouns side by side, without held-out nouns in a style and held-out pairs of nouns."""
    kept_out = {frozenset(pair) for pair in TWO_OBJECT}
    names, styles = list(NOUNS), list(STYLES)
    made = 0
    while made < PAIRS:
        first, second = (names[i] for i in draw.choice(len(names), 2, replace=False))
        style = styles[int(draw.integers(len(styles)))]
        if frozenset((first, second)) in kept_out or {(first, style), (second, style)} & HELD_OUT:
            continue
        picture = FILTERS[style](side_by_side(art[first, style], art[second, style], draw))
        made += 1
        yield dict(kind="pair", nouns=[first, second], style=style, view=0), picture


def unseen(draw: np.random.Generator) -> Iterator[Row]:
    """Nouns from icon sets that nothing is trained on."""
    for set_name in UNSEEN_SETS:
        for noun in NOUNS:
            if icon := find(set_name, NOUNS[noun].icons):
                picture = FILTERS["twemoji"](jitter(render(set_name, icon), draw, scale=(0.9, 1.0)))
                yield dict(kind="unseen set", nouns=[noun], style=set_name, view=0), picture


def rows(draw: np.random.Generator) -> Iterator[Row]:
    """Every picture with what it shows."""
    art = {(noun, style): source(noun, style) for noun in NOUNS for style in STYLES}
    yield from nouns(art, draw)
    others = strangers(draw)
    yield from outsiders(others[:STRANGERS], draw, views=2)
    yield from pairs(art, draw)
    yield from unseen(draw)
    further = others[STRANGERS : STRANGERS + FURTHER_STRANGERS]
    yield from outsiders(further, draw, views=1)


def main() -> None:
    draw = np.random.default_rng(SEED)
    labels, pictures = zip(*rows(draw), strict=True)
    stacked = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    save_file({"pictures": stacked.contiguous()}, WORK / "pictures.safetensors")
    (WORK / "pictures.json").write_text(json.dumps(labels))
    print(f"{len(labels)} pictures of {SIDE} x {SIDE}")


if __name__ == "__main__":
    main()
