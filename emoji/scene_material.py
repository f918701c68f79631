"""Scenes that measure their judge: known things in known slots, among things that are none.

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
from efface.bundled.scene_wordings import SLOTS_OF
from efface.bundled.scenes import SLOTS
from efface.bundled.vocabulary import NOUNS, STYLES
from icons import icon_set, render
from render import (
    FURTHER_STRANGERS,
    SEED,
    STRANGERS,
    VIEWS,
    jitter,
    shows_a_noun,
    strangers,
)
from scenes import SCALE, art, row, view


@dataclass(frozen=True)
class Material:
    """Pictures as uint8 (n, 3, 64, 192); each slot's noun, or -1 where there is none; styles."""

    pixels: Tensor
    nouns: Tensor
    styles: Tensor


@cache
def outsiders() -> tuple[str, ...]:
    """Icons outside the vocabulary that the bundled judge was not trained on.

    They are those that `train_judge.split_strangers` keeps for measuring, and those that
    `render` did not draw; the order is render's own, whose draws before are drawn again.
    """
    draw, blank = np.random.default_rng(SEED), Image.new("RGBA", (1, 1))
    for _ in range(len(NOUNS) * len(STYLES) * VIEWS):
        jitter(blank, draw, scale=SCALE)
    every = strangers(draw)
    rendered = every[: STRANGERS + FURTHER_STRANGERS]
    kept = sorted(name for name in rendered if not shows_a_noun(name))[::4]
    others = [name for name in every[len(rendered) :] if not shows_a_noun(name)]
    return (*kept, *others)


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


def drawn(
    draw: np.random.Generator, *, nothing: float
) -> tuple[list[Image.Image], list[int | None], str]:
    """The slots of a scene, the noun in each or None, and its style.

    In as many slots as scenes of training have, there is a thing, a stranger or a spoilt icon; a
    share of scenes has nothing of the vocabulary. One in ten repeats one noun.
    """
    style, names = list(STYLES)[int(draw.integers(len(STYLES)))], list(NOUNS)
    of_nothing = draw.random() < nothing
    count = int(draw.choice((0, 1, 2, 3) if of_nothing else (1, 2, 3)))
    same, repeated = draw.random() < 0.1, int(draw.integers(len(names)))
    views, nouns = list[Image.Image](), list[int | None]()
    for slot in range(SLOTS):
        icon, noun = None, None
        if slot in SLOTS_OF.get(count, ()):
            if draw.random() < 0.75 and not of_nothing:
                noun = repeated if same else int(draw.integers(len(names)))
                icon = art(names[noun], style)
            elif draw.random() < 0.5:
                others = outsiders()
                icon = stranger(others[int(draw.integers(len(others)))], style)
            else:
                icon = spoilt(style, draw)
        views.append(view(icon, style, draw))
        nouns.append(noun)
    return views, nouns, style


@torch.no_grad()
def through(pixels: Tensor) -> Tensor:
    """Pictures through the autoencoder, as uint8."""
    vae = AutoencoderKL.from_pretrained(pipeline_folder() / "vae").float().eval()
    parts = []
    for part in pixels.split(64):
        output = vae.decode(vae.encode(part.float() / 127.5 - 1).latent_dist.mean).sample
        parts.append((output.clamp(-1, 1) * 127.5 + 127.5).round().byte())
    return torch.cat(parts)


def material(count: int, seed: int, *, nothing: float) -> Material:
    """Scenes by a seed; those with even numbers went through the autoencoder."""
    draw = np.random.default_rng(seed)
    pictures, nouns, styles = [], [], []
    for _ in range(count):
        views, there, style = drawn(draw, nothing=nothing)
        pictures.append(np.asarray(row(views)))
        nouns.append([-1 if noun is None else noun for noun in there])
        styles.append(list(STYLES).index(style))
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    pixels[::2] = through(pixels[::2])
    return Material(pixels, torch.tensor(nouns), torch.tensor(styles))
