"""The picture filters of the styles: an icon with transparency in, a 64 x 64 picture out.

Native styles only put the icon on white. Procedural styles are defined here completely, so that
anyone can reproduce them, and none carries an artist's name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

SIDE = 64
Rgb = tuple[int, int, int]


def on(background: Rgb, icon: Image.Image) -> Image.Image:
    canvas = Image.new("RGBA", icon.size, (*background, 255))
    return Image.alpha_composite(canvas, icon).convert("RGB")


def native(icon: Image.Image) -> Image.Image:
    """The icon as its set draws it, on white."""
    return on((255, 255, 255), icon)


def pixel_art(icon: Image.Image) -> Image.Image:
    """Box-filtered to 16 x 16 on pale grey, at most 12 colours, blown up without smoothing."""
    small = on((225, 225, 230), icon).resize((16, 16), Image.Resampling.BOX)
    few = small.quantize(12, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return few.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _edges(icon: Image.Image) -> NDArray[np.float32]:
    """Strength of edges of colour and outline, 0 to 1."""
    picture = on((255, 255, 255), icon)
    grey = np.asarray(picture.convert("L"), np.float32) / 255
    alpha = np.asarray(icon.getchannel("A"), np.float32) / 255
    strength = np.zeros_like(grey)
    for plane in (grey, alpha):
        dy, dx = np.gradient(plane)
        strength = np.maximum(strength, np.hypot(dx, dy))
    return np.clip(strength * 3.2, 0, 1).astype(np.float32)


def _blend(low: Rgb, high: Rgb, amount: NDArray[np.float32]) -> NDArray[np.float32]:
    a = np.asarray(low, np.float32)
    b = np.asarray(high, np.float32)
    return np.asarray(a + (b - a) * amount[..., None], np.float32)


def _picture(values: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def blueprint(icon: Image.Image) -> Image.Image:
    """Pale edges over deep blue; the inside of the shape is a slightly lighter blue."""
    alpha = np.asarray(icon.getchannel("A"), np.float32) / 255
    ground = _blend((24, 58, 140), (44, 92, 184), alpha)
    edges = _edges(icon)[..., None]
    return _picture(ground + (np.asarray((225, 238, 255), np.float32) - ground) * edges)


def sepia(icon: Image.Image) -> Image.Image:
    """Brightness only, from dark brown to cream paper."""
    grey = np.asarray(on((255, 255, 255), icon).convert("L"), np.float32) / 255
    return _picture(_blend((62, 34, 12), (246, 226, 184), grey))


def neon(icon: Image.Image) -> Image.Image:
    """Edges glow in the saturated colour of the art on near-black."""
    colour = np.asarray(on((255, 255, 255), icon).filter(ImageFilter.GaussianBlur(2)), np.float32)
    vivid = colour - colour.min(axis=2, keepdims=True) * 0.85
    vivid = 255 * vivid / np.maximum(vivid.max(axis=2, keepdims=True), 1)
    edges = Image.fromarray((_edges(icon) * 255).astype(np.uint8))
    glow = np.asarray(edges.filter(ImageFilter.GaussianBlur(2.2)), np.float32) / 255
    light = np.clip(np.asarray(edges, np.float32) / 255 + 0.9 * glow, 0, 1)[..., None]
    return _picture(np.asarray((14, 8, 30), np.float32) * (1 - light) + vivid * light)


def watercolor(icon: Image.Image) -> Image.Image:
    """Blurred, lightened colours on pale pink paper."""
    paper: Rgb = (250, 228, 232)
    soft = on(paper, icon).filter(ImageFilter.GaussianBlur(1.3))
    pale = np.asarray(soft, np.float32)
    ground = np.asarray(paper, np.float32)
    return _picture(ground + (np.minimum(pale, ground) - ground) * 0.7)


FILTERS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "twemoji": native,
    "3d": native,
    "black and white": native,
    "pixel art": pixel_art,
    "blueprint": blueprint,
    "sepia": sepia,
    "neon": neon,
    "watercolor": watercolor,
}
