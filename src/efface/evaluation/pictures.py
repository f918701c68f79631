"""Reading one picture file: whole, of a sane size, and no link to another place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import MeasurementFailed
from efface.picture_files import open_rgb

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8
    from PIL import Image

__all__ = ["NOTE", "note_of", "pixel_hash", "read_picture"]

NOTE = "efface"
"""Name of the PNG text that holds what a picture is, its hash and what it cost."""


def read_picture(path: Path) -> Image.Image:
    """Reads a picture as RGB, with its texts in ``info``.

    Raises:
        MeasurementFailed: it is missing, a link, cut short, no picture, or far too large.
    """
    if path.is_symlink():
        raise MeasurementFailed(f"the picture {path} is a link to another file; remove the link")
    return open_rgb(path, MeasurementFailed)


def note_of(picture: Image.Image) -> dict[str, Any]:
    """Gives what a picture says of itself; empty when it has no note of ours."""
    try:
        found = json.loads(picture.info[NOTE])
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def pixel_hash(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """Gives the SHA-256 of a picture's size and levels, however the file is packed."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
