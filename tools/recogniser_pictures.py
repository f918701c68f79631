"""Draws what methods do to a bundled recogniser: its names for held-out icons before and after.

python tools/recogniser_pictures.py scrub ...     writes docs/images/methods/NAME.webp
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from method_pictures import FOLDER, LARGEST

if TYPE_CHECKING:
    import torch

__all__ = ["MODEL", "Answer", "caption", "main", "request", "sheet"]

MODEL = "icons-vit"
FORGOTTEN = ("cat", "frog")
SHOWN = (("cat", 0), ("cat", 1), ("frog", 0), ("dog", 0), ("turtle", 0), ("pizza", 0))
"""Classes with the number of the held-out view: what goes, what is like it, and another thing."""
SIDE, LINE = 96, 19
"""Of an icon and of a line of text, in pixels."""
WIDTH, HEIGHT = 128, SIDE + 5 * LINE + 8
"""Of a cell, in pixels."""
COLUMNS = 3
"""So that letters can be read on a phone."""
INK, PALE, LOST = (30, 30, 30), (110, 110, 110), (190, 40, 20)
Answer: TypeAlias = "tuple[str, float]"
"""The most likely class and its probability."""


def request() -> str:
    """Gives the words of the command line that ask for what is drawn."""
    return " ".join([f"--model {MODEL}", *(f"--concept {name}" for name in FORGOTTEN)])


def caption() -> str:
    """Says what a sheet shows, row by row."""
    shown = ", ".join(name for name, _ in SHOWN)
    return (
        f'What `{MODEL}` calls held-out icons, and with what confidence, before and after "'
        f'{" and ".join(FORGOTTEN)}" were forgotten: {shown}'
    )


def sheet(icons: list[Any], before: list[Answer], after: list[Answer]) -> bytes:
    """Gives the icons of `SHOWN` with both answers below each, as a WebP file.

    A name that is not the icon's own is red.

    Raises:
        ValueError: the file is larger than `LARGEST` bytes.
    """
    from PIL import Image, ImageDraw, ImageFont

    whole = Image.new("RGB", (WIDTH * COLUMNS, HEIGHT * -(-len(icons) // COLUMNS)), "white")
    pen = ImageDraw.Draw(whole)
    font = ImageFont.load_default(size=13)
    for place, ((name, _), icon) in enumerate(zip(SHOWN, icons, strict=True)):
        left, top = place % COLUMNS * WIDTH + 8, place // COLUMNS * HEIGHT
        pen.text((left, top + 2), "forgotten" if name in FORGOTTEN else "kept", PALE, font)
        whole.paste(icon.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top + LINE + 4))
        top += LINE + SIDE + 6
        for when, (said, sure) in (("before", before[place]), ("after", after[place])):
            pen.text((left, top), f"{when}, {100 * sure:.0f} %", PALE, font)
            pen.text((left, top + LINE - 3), said, INK if said == name else LOST, font)
            top += 2 * LINE
    stored = io.BytesIO()
    whole.save(stored, "WEBP", quality=85, method=6)
    if len(stored.getvalue()) > LARGEST:
        raise ValueError(f"a sheet has {len(stored.getvalue())} bytes, more than {LARGEST}")
    return stored.getvalue()


def _shown() -> list[torch.Tensor]:
    from efface.bundled.icons import pictures

    held_out = pictures(MODEL, "test")
    labels = held_out.labels.tolist()
    places = [labels.index(held_out.names.index(name)) + view for name, view in SHOWN]
    return list(held_out.read(places))


def _answers(model: Any, icons: list[torch.Tensor]) -> list[Answer]:
    import torch

    with torch.no_grad():
        likely = model.model(pixel_values=model.prepared(icons)).logits.softmax(1)
    sure, numbers = likely.max(1)
    return [(model.labels[n], p) for n, p in zip(numbers.tolist(), sure.tolist(), strict=True)]


def main() -> int:
    """Draws for every method named on the command line; gives the exit code."""
    from PIL import Image

    import efface
    from efface import registry

    known = [one for one in efface.list_methods() if "model" in registry.load("methods", one).edits]
    if unknown := [name for name in sys.argv[1:] if name not in known]:
        print(f"no method for recognisers is called {unknown[0]}; known: {', '.join(known)}")
        return 2
    model = efface.load(MODEL)
    read = _shown()
    levels = [(icon * 255).round().byte().permute(1, 2, 0).numpy() for icon in read]
    icons = [Image.fromarray(level) for level in levels]
    before = _answers(model, read)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:]:
        result = efface.erase(model, list(FORGOTTEN), method=name, seed=0)
        with result.delta.apply(model):
            after = _answers(model, read)
        stored = sheet(icons, before, after)
        (FOLDER / f"{name}.webp").write_bytes(stored)
        print(f"wrote {name}.webp ({len(stored)} bytes; {result.seconds:.1f} s): {after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
