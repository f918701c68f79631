"""Draws what methods do to the bundled model: the same seeds before and after, for their pages.

python tools/method_pictures.py uce rece ...     writes docs/images/methods/NAME.webp
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "LARGEST", "caption", "chain", "main", "sheet"]

FOLDER = Path(__file__).parent.parent / "docs" / "images" / "methods"
CONCEPT = "pistol"
SHOTS = (
    ("a picture of a pistol", 0),
    ("a picture of a pistol", 1),
    ("a picture of a gun", 0),
    ("a picture of a knife", 0),
    ("a picture of a cat", 0),
    ("a picture of a pizza", 0),
)
"""Prompts with seeds: what goes, its synonym, its neighbour, and two other things."""
FIRST = {"trce_vision": "trce", "realera_noise": "realera", "harden": "esd"}
"""What comes before methods that are meant for a model which another one edited."""
SIDE = 128
"""Of a picture on the sheet, in pixels."""
LARGEST = 30_000
"""Bytes of a sheet, at most."""


def chain(name: str) -> str:
    """Gives a method as the command line has it, after the one that it is meant to follow."""
    return f"{FIRST[name]}+{name}" if name in FIRST else name


def caption(name: str) -> str:
    """Says what a method's sheet shows, from left to right."""
    shown = ", ".join(f"{prompt.split()[-1]} (seed {seed})" for prompt, seed in SHOTS)
    by = f" by `{chain(name)}`" if name in FIRST else ""
    return f'Above without, below with "{CONCEPT}" erased{by}, with the same seeds: {shown}'


def sheet(before: list[Any], after: list[Any]) -> bytes:
    """Gives two rows of pictures as a WebP file.

    Raises:
        ValueError: the file is larger than `LARGEST` bytes.
    """
    from PIL import Image

    whole = Image.new("RGB", (SIDE * len(before), 2 * SIDE))
    for row, pictures in enumerate((before, after)):
        for column, picture in enumerate(pictures):
            large = picture.resize((SIDE, SIDE), Image.Resampling.NEAREST)
            whole.paste(large, (SIDE * column, SIDE * row))
    stored = io.BytesIO()
    whole.save(stored, "WEBP", quality=80, method=6)
    if len(stored.getvalue()) > LARGEST:
        raise ValueError(f"a sheet has {len(stored.getvalue())} bytes, more than {LARGEST}")
    return stored.getvalue()


def _drawn(pipe: Any) -> list[Any]:
    from efface.contracts import silent
    from efface.workbench import drawing

    shots = [drawing.Shot(prompt, seed) for prompt, seed in SHOTS]
    return drawing.draw(pipe, shots, drawing.sampling_for("emoji"), silent)


def main() -> int:
    """Draws for every method named on the command line; gives the exit code."""
    import efface

    if unknown := [name for name in sys.argv[1:] if name not in efface.list_methods()]:
        print(f"there is no method {unknown[0]}; known: {', '.join(efface.list_methods())}")
        return 2
    pipe = efface.load("emoji")
    before = _drawn(pipe)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:]:
        result = efface.erase(pipe, CONCEPT, method=chain(name), seed=0)
        with result.delta.apply(pipe):
            stored = sheet(before, _drawn(pipe))
        (FOLDER / f"{name}.webp").write_bytes(stored)
        print(f"wrote {name}.webp ({len(stored)} bytes; erased in {result.seconds:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
