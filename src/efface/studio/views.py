"""What the page shows, as escaped HTML: progress, curves, tables, maps. No number is made here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from PIL import Image

from efface.evaluation.collateral import Cell, CollateralMap
from efface.printable import printable
from efface.reports.charts import curves
from efface.studio.jobs import Job, Queue

__all__ = [
    "BUTTONS",
    "CSS",
    "curve",
    "enlarged",
    "evaluation_table",
    "facts",
    "heat_map",
    "message",
    "percent",
    "progress",
    "read_picture",
    "table",
    "text_of",
]

BUTTONS = ["download", "fullscreen"]
"""What pictures offer; Gradio's own list has a button that sends them to somebody's website."""
_SIDE = 384
CSS = """
.pictures.blurred img { filter: blur(14px); }
.pictures.blurred:hover img, .pictures.blurred:focus-within img { filter: none; }
.sheets button.thumbnail-lg { aspect-ratio: auto; }
.told { overflow-wrap: anywhere; }
.told table { border-collapse: collapse; width: 100%; border: none !important; }
.told thead, .told tbody, .told tr { border: none !important; }
.told th, .told td { padding: .25rem .6rem; text-align: left;
  border: none !important; border-bottom: 1px solid var(--border-color-primary) !important;
  overflow-wrap: normal; }
.told .curves { margin-top: .8rem; }
.scroll { overflow-x: auto; }
.told .bar { height: .5rem; border-radius: .25rem; background: var(--border-color-primary); }
.told .bar > div { height: 100%; border-radius: .25rem; background: var(--color-accent); }
.told .good { color: #0a7d4b; } .told .bad { color: #c0392b; } .told .open { color: #9a6700; }
.dark .told .good { color: #5dd39e; } .dark .told .bad { color: #ff8a7a; }
.dark .told .open { color: #f2c55c; }
.told .curves { display: flex; flex-wrap: wrap; gap: 1rem; }
.told svg path { fill: none; stroke: var(--color-accent); stroke-width: 2; }
.told iframe { width: 100%; height: 34rem; border: 1px solid var(--border-color-primary);
  background: white; }
.told pre { white-space: pre-wrap; max-height: 30rem; overflow: auto; }
footer { display: none !important; }
"""
_WORDS = {
    "waiting": "waiting",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}


def text_of(value: Any) -> Markup:
    """Escapes anything for a page; control characters are shown as what they are."""
    return escape(printable(str(value)))


def message(value: Any, tone: str = "") -> str:
    """Shows a sentence."""
    return f'<div class="told"><p class="{escape(tone)}">{text_of(value)}</p></div>'


def percent(share: float | None) -> str:
    """Writes a share; a dash where nobody measured it."""
    return "\N{EN DASH}" if share is None or share != share else f"{100 * share:.0f} %"


def progress(job: Job, queue: Queue) -> str:
    """Shows how far a job is, with its curves, what it said, and why it ended."""
    tones = {"done": "good", "failed": "bad", "cancelled": "open"}
    ahead = queue.ahead(job)
    state = f"waiting for {ahead}" if job.state == "waiting" and ahead else _WORDS[job.state]
    where = f": {job.what}" if job.state == "running" and job.what else ""
    steps = f" {job.step} of {job.total}" if job.total and job.state == "running" else ""
    share = 100 if job.state == "done" else 100 * job.step / job.total if job.total else 0
    parts = [
        f'<p class="{tones.get(job.state, "")}" role="status"><b>{text_of(job.title)}</b>: '
        f"{text_of(state + where + steps)}</p>",
        f'<div class="bar"><div style="width:{share:.0f}%"></div></div>',
    ]
    if job.error:
        parts.append(f'<p class="{tones.get(job.state, "")}">{text_of(job.error)}</p>')
    if drawn := [curve(each.title, each.path, each.last) for each in curves(job.curves)]:
        parts.append(f'<div class="curves">{"".join(drawn)}</div>')
    if job.lines:
        parts.append(f"<p>{'<br>'.join(text_of(line) for line in job.lines[-8:])}</p>")
    return f'<div class="told">{"".join(parts)}</div>'


def curve(title: str, path: str, last: str) -> str:
    """Shows a line in a box of 300 by 80."""
    return (
        f"<figure><figcaption>{text_of(title)}: {text_of(last)}</figcaption>"
        f'<svg width="220" height="60" viewBox="0 0 300 80" role="img" '
        f'aria-label="{text_of(title)}"><path d="{escape(path)}"/></svg></figure>'
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Shows a table that scrolls sideways where it has to."""
    top = "".join(f"<th>{text_of(head)}</th>" for head in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{text_of(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    whole = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="told scroll">{whole}</div>'


def evaluation_table(evaluation: Any) -> str:
    """Shows the lines that matter of a measurement, as reports word them."""
    from efface.reports import wording

    rows = []
    for line in wording.main_lines(evaluation):
        found = line.measurement
        latest = found.after or found.before
        before = wording.value(found.before, "rate") if found.after and found.before else ""
        mark = "" if line.within is None else ("ok" if line.within else line.failure)
        interval = wording.interval(latest, "rate") if latest else ""
        shown = wording.value(latest, "rate") if latest else ""
        rows.append((line.label, before, shown, interval, mark))
    outcome = evaluation.outcome
    tone = {"erased": "good", "unknown": "open"}.get(outcome.name if outcome else "", "bad")
    told = message(wording.headline(evaluation), tone)
    return told + table(("", "before", "after", "95 % interval, pictures", ""), rows)


def heat_map(found: CollateralMap) -> Any:
    """Shows how much less often each concept is seen, in points, as a coloured table."""
    import pandas

    rows = [
        [
            "" if (cell := found.cells.get((row, column))) is None else _points(cell)
            for column in found.columns
        ]
        for row in found.rows
    ]
    frame = pandas.DataFrame(rows, index=list(found.rows), columns=list(found.columns))
    frame = frame.rename_axis("run").reset_index()
    frame["run"] = [printable(name) for name in frame["run"]]

    def colours(row: Any) -> list[str]:
        name = found.rows[row.name]
        return [
            "" if column == "run" else _colour(found.cells.get((name, column)))
            for column in frame.columns
        ]

    return frame.style.apply(colours, axis=1)


def _points(cell: Cell) -> str:
    """Writes what was lost in points, and of how many pictures."""
    return f"{100 * cell.lost:.0f} ({cell.after.count})"


def _colour(cell: Cell | None) -> str:
    if cell is None:
        return ""
    share = 0.75 * min(1.0, max(0.0, cell.lost))  # light enough for black numbers
    hue = (38, 120, 178) if cell.going else (200, 60, 40)
    mixed = [round(255 + (one - 255) * share) for one in hue]
    return f"background-color: rgb({mixed[0]},{mixed[1]},{mixed[2]}); color: black"


def enlarged(picture: Image.Image) -> Image.Image:
    """Makes a small picture large enough to look at, pixel by pixel."""
    times = max(1, _SIDE // max(picture.size))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def read_picture(path: Path | None) -> Image.Image | None:
    """Reads a picture for the page; None where it is not there."""
    from efface.evaluation.pictures import read_picture as read

    return None if path is None or not path.is_file() else enlarged(read(path))


def facts(values: Mapping[str, Any]) -> str:
    """Shows names with values."""
    return table(("", ""), values.items())
