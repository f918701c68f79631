"""Reads icon sets in the Iconify layout and turns one icon into a picture with transparency."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from typing import Any

import resvg_py
from PIL import Image

from fetch import ICONS

RENDERED = 128
"""Side of a rendered icon, in pixels."""

REVOLVERS = {"twemoji": "noto-v1", "noto": "noto-v1", "fluent-emoji-flat": "noto-v1"}
"""Today's sets draw U+1F52B as a water pistol; procedural styles take the older revolver."""


@lru_cache
def icon_set(name: str) -> dict[str, Any]:
    """The parsed ``icons.json`` of a set, with its aliases resolved."""
    folder = ICONS / "node_modules" / "@iconify-json" / name
    data = json.loads((folder / "icons.json").read_text())
    icons = dict(data["icons"])
    for alias, entry in data.get("aliases", {}).items():
        if entry["parent"] in icons:
            icons.setdefault(alias, icons[entry["parent"]])
    width, height = data.get("width", 16), data.get("height", 16)
    joined = {key.replace("-", ""): key for key in icons}
    return {"icons": icons, "width": width, "height": height, "joined": joined}


def find(set_name: str, candidates: tuple[str, ...]) -> str | None:
    """The first candidate the set has; sets share Unicode-derived names up to hyphens."""
    joined = icon_set(set_name)["joined"]
    for candidate in candidates:
        if key := joined.get(candidate.replace("-", "")):
            return str(key)
    return None


def render(set_name: str, icon: str) -> Image.Image:
    """One icon as RGBA, ``RENDERED`` pixels square."""
    data = icon_set(set_name)
    entry = data["icons"][icon]
    width, height = entry.get("width", data["width"]), entry.get("height", data["height"])
    left, top = entry.get("left", 0), entry.get("top", 0)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{RENDERED}" height="{RENDERED}">'
        f"{entry['body']}</svg>"
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=RENDERED, height=RENDERED)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
