"""Figures as PNG files: pictures before and after, and intervals by role."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.contracts import Role, Sample
from efface.evaluation.record import Evaluation, Measurement
from efface.evaluation.samples import ROLES, in_role
from efface.files import write_atomically
from efface.printable import printable
from efface.reports import wording
from efface.reports.model_words import words_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["before_after", "chosen", "interval_plot", "new_figure", "thumbnail", "write_figure"]

_COLUMNS, _FEWEST_COLUMNS = 8, 6  # headings need the width of six pictures
_STEP, _SIDE, _HEAD = 1.05, 0.99, 0.7  # inches: from picture to picture, of one, above the first
_THUMBNAIL = 256  # pixels wide, as ModelSpec asks
_INK, _LINE, _BEFORE, _AFTER = "#1f2430", "#dfe2e8", "#7b8496", "#b6430b"


def chosen(evaluation: Evaluation, role: Role, most: int = _COLUMNS) -> tuple[Sample, ...]:
    """Picks samples whose pictures are there, spread evenly over a role's prompts and concepts."""
    drawn = [
        sample
        for sample in in_role(evaluation.samples, role)
        if evaluation.picture(sample, edited=False)
        and (evaluation.after is None or evaluation.picture(sample, edited=True))
    ]
    rounds: dict[str, int] = {}
    order = []
    for place, sample in enumerate(drawn):
        group = sample.subject or sample.prompt
        rounds[group] = rounds.get(group, -1) + 1
        order.append((rounds[group], place, sample))
    several = len(rounds) > 1
    if several:
        return tuple(sample for _, _, sample in sorted(order, key=lambda one: one[:2])[:most])
    step = max(1, len(drawn) // most)
    return tuple(drawn[::step][:most])


def before_after(evaluation: Evaluation, path: Path) -> Path:
    """Writes same-seed pictures, a pair of rows for each role: before above, after below."""
    picked = {role: chosen(evaluation, role) for role in ROLES}
    shown = {role: samples for role, samples in picked.items() if samples}
    rows = 1 if evaluation.after is None else 2
    columns = max(_FEWEST_COLUMNS, *(len(samples) for samples in shown.values()), 0)
    width, block = 0.9 + _STEP * columns, _HEAD + _STEP * rows
    height = max(1, len(shown)) * block
    figure = new_figure(width, height, layout=False)
    axis = figure.add_axes((0, 0, 1, 1), autoscale_on=False)
    axis.set(xlim=(0, width), ylim=(height, 0))  # in inches
    axis.set_axis_off()
    for number, (role, samples) in enumerate(shown.items()):
        title = f"{wording.ROLES[role]}: {words_for(evaluation).role(role)}"
        top = number * block
        axis.text(0.1, top + 0.06, title, va="top", fontsize=10, color=_INK, weight="bold")
        for row in range(rows):
            _row(axis, evaluation, samples, top + _HEAD + row * _STEP, edited=row == 1)
    return write_figure(figure, path)


def thumbnail(evaluation: Evaluation, path: Path) -> Path | None:
    """Writes two pairs of the erased prompts as one small JPEG: before on the left, after right.

    Gives None, and writes nothing, where no pair was drawn.
    """
    from PIL import Image

    pairs = chosen(evaluation, "erased", 2) if evaluation.after is not None else ()
    if not pairs:
        return None
    edge = _THUMBNAIL // 2
    whole = Image.new("RGB", (_THUMBNAIL, edge * len(pairs)), "white")
    for row, sample in enumerate(pairs):
        for column in range(2):
            picture = evaluation.picture(sample, edited=column == 1)
            assert picture is not None  # chosen() gives pairs that were drawn
            with Image.open(picture) as opened:
                tile = opened.convert("RGB").resize((edge, edge), Image.Resampling.LANCZOS)
            whole.paste(tile, (column * edge, row * edge))
    buffer = io.BytesIO()
    whole.save(buffer, format="JPEG", quality=85)
    write_atomically(path, buffer.getvalue())
    return path


def interval_plot(evaluation: Evaluation, path: Path) -> Path:
    """Writes rates with 95 % intervals by role, before and after, for every rate metric."""
    rates = [one for one in evaluation.measurements if one.unit == "rate" and not one.concept]
    metrics = tuple(dict.fromkeys(one.metric for one in rates))
    figure = new_figure(7.0, 0.9 + 0.42 * len(rates) + 0.7 * len(metrics))
    heights = [sum(one.metric == metric for one in rates) for metric in metrics]
    axes = figure.subplots(max(1, len(metrics)), 1, squeeze=False, height_ratios=heights or None)
    for axis, metric in zip(axes[:, 0], metrics, strict=False):
        _intervals(axis, [one for one in rates if one.metric == metric])
        axis.set_title(wording.named(metric), loc="left", fontsize=10, color=_INK)
    for name, colour in (("before", _BEFORE), ("after", _AFTER)):
        axes[0, 0].plot([], [], "o-", color=colour, label=name)
    axes[0, 0].legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return write_figure(figure, path)


def new_figure(width: float, height: float, *, layout: bool = True) -> Figure:
    """Makes a figure without pyplot, so that no window system and no global state is touched."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    margins = (0.01, 0.01, 0.98, 0.98)
    engine = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, hspace=0, wspace=0, rect=margins)
    size = (width, height)
    return Figure(figsize=size, dpi=140, layout=engine if layout else None, facecolor="white")


def write_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure as a PNG file, in one step."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
    return path


def _row(
    axis: Any, evaluation: Evaluation, samples: Sequence[Sample], top: float, *, edited: bool
) -> None:
    """Draws pictures into their squares, oblong ones in the middle, and prompts above the first.

    One axis for all: one for each picture would take most of the time of a report.
    """
    from matplotlib.patches import Rectangle
    from PIL import Image

    side, colour = "after" if edited else "before", _AFTER if edited else _INK
    middle = top + _SIDE / 2
    axis.text(0.3, middle, side, rotation=90, va="center", ha="right", fontsize=9, color=colour)
    for column, sample in enumerate(samples):
        path = evaluation.picture(sample, edited=edited)
        if path is None:
            continue
        with Image.open(path) as image:
            picture = image.convert("RGB")
        wide, high = (_SIDE * edge / max(picture.size) for edge in picture.size)
        left, upper = 0.4 + column * _STEP + (_SIDE - wide) / 2, middle - high / 2
        extent = (left, left + wide, upper + high, upper)
        axis.imshow(picture, interpolation="nearest", extent=extent, aspect="auto")
        frame = Rectangle((left, upper), wide, high, fill=False, edgecolor=_LINE, linewidth=0.8)
        axis.add_patch(frame)
        if not edited:
            axis.text(
                left + wide / 2,
                upper - 0.04,
                _wrapped(printable(sample.prompt)),
                va="bottom",
                ha="center",
                fontsize=6,
                color=_INK,
                parse_math=False,
            )


def _intervals(axis: Any, rows: Sequence[Measurement]) -> None:
    for place, row in enumerate(rows):
        for estimate, colour, up in ((row.before, _BEFORE, -0.13), (row.after, _AFTER, 0.13)):
            if estimate is None:
                continue
            y = place + up
            axis.plot([100 * estimate.low, 100 * estimate.high], [y, y], color=colour, lw=2)
            axis.plot(100 * estimate.value, y, "o", color=colour, ms=6)
            text = wording.hits(estimate)
            axis.annotate(text, (102, y), fontsize=6.5, color=colour, va="center")
    axis.set_yticks(range(len(rows)), [wording.ROLES[row.role] for row in rows], fontsize=9)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(-2, 118)
    axis.set_xticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)], fontsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", color=_LINE, lw=0.8)
    axis.set_axisbelow(True)


def _wrapped(prompt: str) -> str:
    """Breaks a prompt into at most three lines."""
    lines = textwrap.wrap(prompt, 20, max_lines=3, placeholder=" \N{HORIZONTAL ELLIPSIS}")
    return "\n".join(lines)
