"""Same-seed pictures without a guide and with some, and where their words attend on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.errors import BadRequest
from efface.guiding.masks import layout_masks
from efface.guiding.watching import Watched
from efface.printable import printable
from efface.reports.figures import new_figure, write_figure

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["attention_figure"]

_HIGH, _GAP, _HEAD, _LEFT = 0.98, 0.07, 0.92, 1.75  # inches: a tile, between tiles, above, left
_INK, _PLACE = "#1f2430", "#b6430b"


def attention_figure(
    drawn: Mapping[str, Watched], path: Path, *, title: str = "", layouts: Sequence[str] = ()
) -> Path:
    """Writes a row for each way of drawing: its picture, then the maps of each word over the run.

    Maps are brightest at the highest value of their word in any row, so that rows compare. Where a
    layout is given for a word, its place is outlined in the last rows' picture and maps.

    Args:
        drawn: by what the row is called; all of the same words and times.
        path: of a PNG file.
        title: above all.
        layouts: as guides take them; painted masks are read at the picture's size.

    Raises:
        BadRequest: nothing was drawn, or rows have different words or times.
    """
    rows = list(drawn.values())
    if not rows or len({(row.words, row.shares) for row in rows}) != 1:
        raise BadRequest("rows of a figure of attention have the same words and times; draw alike")
    words, shares = rows[0].words, rows[0].shares
    brightest = torch.stack([row.maps.amax(dim=(0, 2, 3)) for row in rows]).amax(dim=0)
    height, broad = rows[0].pixels.shape[:2]
    wide = _HIGH * broad / height
    width = _left(len(words), 0, len(shares), wide)
    figure = new_figure(width, _top(len(rows)), layout=False)
    axis = figure.add_axes((0, 0, 1, 1), autoscale_on=False)
    axis.set(xlim=(0, width), ylim=(_top(len(rows)), 0))  # in inches
    axis.set_axis_off()
    axis.text(0.1, 0.08, printable(title), va="top", fontsize=10, color=_INK, weight="bold")
    for number, (name, row) in enumerate(drawn.items()):
        top = _top(number)
        axis.text(0.1, top + _HIGH / 2, printable(name), va="center", fontsize=8, color=_INK)
        _tile(axis, _LEFT, top, wide, row.pixels)
        for place, word in enumerate(words):
            for turn, share in enumerate(shares):
                left = _left(place, turn, len(shares), wide)
                _tile(axis, left, top, wide, row.maps[turn, place], float(brightest[place]))
                if not number:
                    _heading(axis, left, word if not turn else "", share)
    _outline(axis, layouts, rows, words, wide)
    return write_figure(figure, path)


def _left(word: int, turn: int, turns: int, wide: float) -> float:
    """Says where a word's map of one time stands; a wider gap is before each word."""
    return _LEFT + (wide + _GAP) * (1 + word * turns + turn) + 0.1 * (word + 1)


def _top(row: int) -> float:
    return _HEAD + (_HIGH + _GAP) * row


def _tile(
    axis: Any, left: float, top: float, wide: float, values: Tensor, brightest: float = 1.0
) -> None:
    """Draws a picture, or a map in greys."""
    axis.imshow(
        values.numpy(),
        extent=(left, left + wide, top + _HIGH, top),
        cmap="magma",
        vmin=0,
        vmax=max(brightest, 1e-12),
        interpolation="nearest",
        aspect="auto",
    )


def _heading(axis: Any, left: float, word: str, share: float) -> None:
    at = _HEAD - 0.3
    axis.text(left, at, printable(word), va="bottom", fontsize=9, color=_INK, weight="bold")
    axis.text(left, at + 0.04, f"after {share:.0%}", va="top", fontsize=7, color=_INK)


def _outline(
    axis: Any, layouts: Sequence[str], rows: Sequence[Watched], words: Sequence[str], wide: float
) -> None:
    """Draws the edges of the words' places over the last row."""
    last = rows[-1]
    height, width = last.pixels.shape[:2]
    size = (int(last.maps.shape[2]), int(last.maps.shape[3]))
    top = _top(len(rows) - 1)
    for word, mask in layout_masks(layouts, size=size, picture=(height, width)).items():
        lefts = [_LEFT]
        if word in words:
            turns, place = len(last.shares), words.index(word)
            lefts += [_left(place, turn, turns, wide) for turn in range(turns)]
        fine = mask.repeat_interleave(8, dim=0).repeat_interleave(8, dim=1).numpy()
        for left in lefts:
            axis.contour(
                fine,
                levels=[0.5],
                extent=(left, left + wide, top, top + _HIGH),
                colors=_PLACE,
                linewidths=1.2,
            )
