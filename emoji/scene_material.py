"""Pictures for the judge of scenes: known things in known places, among things that are none.

What is none is an icon outside the vocabulary, or a spoilt one: two blended or joined half to
half, smudged, or with its blocks shuffled. Half of the pictures went through the autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageFilter
from torch import Tensor

from efface.bundled import pipeline_folder
from efface.bundled.scene_judge import CELLS, SIDE
from efface.bundled.vocabulary import NOUNS, STYLES
from icons import icon_set, render
from render import shows_a_noun, strangers
from scenes import art, centres
from styles import FILTERS

CELL = SIDE // CELLS
STRANGERS_SEED = 5
ROOM = 36
"""Pixels between the centres of two things, down or across, where places are free."""


@dataclass(frozen=True)
class Material:
    """Pictures as uint8 (n, 3, 96, 96); centres as rows of picture, noun, down, across in cells."""

    pixels: Tensor
    things: Tensor
    styles: Tensor

    def heat(self, rows: Tensor) -> Tensor:
        """What to see in each place: 1 at a centre, less beside it; (n, nouns, 12, 12)."""
        heat = torch.zeros(len(rows), len(NOUNS), CELLS, CELLS)
        cells = torch.arange(CELLS) + 0.5
        for place, row in enumerate(rows.tolist()):
            for _, noun, down, across in self.things[self.things[:, 0] == row].tolist():
                d, a = (cells - int(down) - 0.5) ** 2, (cells - int(across) - 0.5) ** 2
                bump = (-(d[:, None] + a[None]) / 1.0).exp()
                heat[place, int(noun)] = torch.maximum(heat[place, int(noun)], bump)
        return heat


@cache
def outsiders(*, unseen: bool) -> tuple[str, ...]:
    """Icons outside the vocabulary for training, or other ones for measuring."""
    every = [n for n in strangers(np.random.default_rng(STRANGERS_SEED)) if not shows_a_noun(n)]
    return tuple(name for place, name in enumerate(every[:700]) if (place % 4 == 0) == unseen)


@cache
def stranger(name: str, style: str) -> Image.Image:
    """The art of an icon outside the vocabulary."""
    source = STYLES[style].source
    return render(source, icon_set(source)["joined"][name])


def spoilt(style: str, draw: np.random.Generator) -> Image.Image:
    """An icon that shows nothing any more."""
    names = list(NOUNS)
    first, second = (art(names[i], style) for i in draw.choice(len(names), 2, replace=False))
    kind = int(draw.integers(4))
    if kind == 0:
        return Image.blend(first, second, 0.5)
    if kind == 1:
        half = first.copy()
        if draw.random() < 0.5:
            half.paste(second.crop((64, 0, 128, 128)), (64, 0))
        else:
            half.paste(second.crop((0, 64, 128, 128)), (0, 64))
        return half
    if kind == 2:
        return first.filter(ImageFilter.GaussianBlur(float(draw.uniform(11, 18))))
    blocks = np.asarray(first).reshape(4, 32, 4, 32, 4).transpose(0, 2, 1, 3, 4)
    mixed = blocks.reshape(16, 32, 32, 4)[draw.permutation(16)].reshape(4, 4, 32, 32, 4)
    mixed = mixed.transpose(0, 2, 1, 3, 4)
    return Image.fromarray(np.ascontiguousarray(mixed.reshape(128, 128, 4)))


def places(count: int, draw: np.random.Generator) -> list[tuple[int, int]]:
    """Centres of some things: as in scenes of training, or wherever there is room."""
    if count <= 4 and draw.random() < 0.6:
        return centres(count, draw)
    found: list[tuple[int, int]] = []
    for _ in range(60):
        x, y = (int(v) for v in draw.integers(21, SIDE - 20, 2))
        if all(max(abs(x - a), abs(y - b)) >= ROOM for a, b in found):
            found.append((x, y))
        if len(found) == count:
            break
    return found


def drawn(
    draw: np.random.Generator, *, unseen: bool, nothing: float
) -> tuple[Image.Image, list[tuple[int, int, int]], int]:
    """A picture, the things in it as noun, down and across in pixels, and its style.

    A share is of pictures of nothing; there is a stranger or a spoilt icon in them.
    """
    style, names = list(STYLES)[int(draw.integers(len(STYLES)))], list(NOUNS)
    shares = np.array([0.28, 0.32, 0.24, 0.10]) / 0.94
    count = int(draw.choice(5, p=[nothing, *(shares * (1 - nothing))]))
    where = places(max(1, count), draw)
    same = draw.random() < 0.12
    repeated = int(draw.integers(len(names)))
    canvas, things = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)), []
    for x, y in where:
        noun = repeated if same else int(draw.integers(len(names)))
        kind = draw.random()
        if kind < 0.68 and count:
            icon = art(names[noun], style)
            things.append((noun, y, x))
        elif kind < 0.86:
            others = outsiders(unseen=unseen)
            icon = stranger(others[int(draw.integers(len(others)))], style)
        else:
            icon = spoilt(style, draw)
        side = int(draw.integers(38, 54)) if len(where) > 1 else int(draw.integers(40, 72))
        layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
        small = icon.resize((side, side), Image.Resampling.LANCZOS)
        layer.paste(small, (x - side // 2, y - side // 2))
        canvas = Image.alpha_composite(canvas, layer)
    return FILTERS[style](canvas), things, list(STYLES).index(style)


@torch.no_grad()
def through(pixels: Tensor) -> Tensor:
    """Pictures through the autoencoder, as uint8."""
    vae = AutoencoderKL.from_pretrained(pipeline_folder() / "vae").float().eval()
    parts = []
    for part in pixels.split(64):
        output = vae.decode(vae.encode(part.float() / 127.5 - 1).latent_dist.mean).sample
        parts.append((output.clamp(-1, 1) * 127.5 + 127.5).round().byte())
    return torch.cat(parts)


def material(count: int, seed: int, *, unseen: bool = False, nothing: float = 0.06) -> Material:
    """Pictures by a seed; those with even numbers went through the autoencoder."""
    draw = np.random.default_rng(seed)
    pictures, things, styles = [], [], []
    for number in range(count):
        picture, seen, style = drawn(draw, unseen=unseen, nothing=nothing)
        pictures.append(np.asarray(picture))
        styles.append(style)
        for noun, down, across in seen:
            things.append([number, noun, down // CELL, across // CELL])
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    pixels[::2] = through(pixels[::2])
    return Material(pixels, torch.tensor(things), torch.tensor(styles))
