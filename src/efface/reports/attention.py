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

_STEP, _SIDE, _HEAD, _LEFT = 1.05, 0.98, 0.62, 1.75  # inches: between tiles, of one, above, left
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
    width = _LEFT + _STEP * (1 + len(words) * len(shares)) + 0.1 * len(words)
    figure = new_figure(width, _HEAD + 0.3 + _STEP * len(rows), layout=False)
    axis = figure.add_axes((0, 0, 1, 1), autoscale_on=False)
    axis.set(xlim=(0, width), ylim=(_HEAD + 0.3 + _STEP * len(rows), 0))  # in inches
    axis.set_axis_off()
    axis.text(0.1, 0.08, printable(title), va="top", fontsize=10, color=_INK, weight="bold")
    for number, (name, row) in enumerate(drawn.items()):
        top = _HEAD + 0.3 + number * _STEP
        axis.text(0.1, top + _SIDE / 2, printable(name), va="center", fontsize=8, color=_INK)
        _tile(axis, _LEFT, top, row.pixels)
        for place, word in enumerate(words):
            for turn, share in enumerate(shares):
                left = _LEFT + _STEP * (1 + place * len(shares) + turn) + 0.1 * (place + 1)
                _tile(axis, left, top, row.maps[turn, place], float(brightest[place]))
                if not number:
                    _heading(axis, left, word if not turn else "", share)
    _outline(axis, layouts, rows, words)
    return write_figure(figure, path)


def _tile(axis: Any, left: float, top: float, values: Tensor, brightest: float = 1.0) -> None:
    """Draws a picture, or a map in greys."""
    axis.imshow(
        values.numpy(),
        extent=(left, left + _SIDE, top + _SIDE, top),
        cmap="magma",
        vmin=0,
        vmax=max(brightest, 1e-12),
        interpolation="nearest",
        aspect="auto",
    )


def _heading(axis: Any, left: float, word: str, share: float) -> None:
    axis.text(left, _HEAD, printable(word), va="bottom", fontsize=9, color=_INK, weight="bold")
    axis.text(left, _HEAD + 0.04, f"after {share:.0%}", va="top", fontsize=7, color=_INK)


def _outline(
    axis: Any, layouts: Sequence[str], rows: Sequence[Watched], words: Sequence[str]
) -> None:
    """Draws the edges of the words' places over the last row."""
    last = rows[-1]
    height, width = last.pixels.shape[:2]
    size = (int(last.maps.shape[2]), int(last.maps.shape[3]))
    top = _HEAD + 0.3 + (len(rows) - 1) * _STEP
    for word, mask in layout_masks(layouts, size=size, picture=(height, width)).items():
        lefts = [_LEFT]
        if word in words:
            start = 1 + words.index(word) * len(last.shares)
            gap = 0.1 * (words.index(word) + 1)
            lefts += [_LEFT + _STEP * (start + turn) + gap for turn in range(len(last.shares))]
        fine = mask.repeat_interleave(8, dim=0).repeat_interleave(8, dim=1).numpy()
        for left in lefts:
            axis.contour(
                fine,
                levels=[0.5],
                extent=(left, left + _SIDE, top, top + _SIDE),
                colors=_PLACE,
                linewidths=1.2,
            )
