"""The robustness matrix for people: heat map with numbers, page with curves, terminal table."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.evaluation.encoding import decoded
from efface.evaluation.jobs import Plan
from efface.reports import wording
from efface.reports.robustness import named, percent, steps_path

if TYPE_CHECKING:
    from rich.console import RenderableType

    from efface.evaluation.matrix import Cell, Matrix
    from efface.evaluation.stores import ResultStore
    from efface.evaluation.transfers import Transfer

__all__ = ["heat_map", "markdown", "matrix_page", "matrix_table", "transfer_map"]


def heat_map(matrix: Matrix) -> bytes:
    """Draws the share that each attack brought back, with hits of trials, as a PNG file."""
    methods, attacks = _axes(matrix)
    grid = [[matrix.find(method, attack) for method in methods] for attack in attacks]
    return _drawn(
        "Trials in which an attack brought the erased concept back",
        methods,
        [_label(matrix, each) for each in attacks],
        [[(_share(cell), _text(cell)) for cell in row] for row in grid],
    )


def transfer_map(matrix: Matrix) -> bytes:
    """Draws how often prompts found against one method work on the others, as a PNG file."""
    methods, _ = _axes(matrix)
    sister = {one.source: one for one in matrix.transfers if one.onto != matrix.plan["model"]}
    held = {(one.source, one.target): one for one in matrix.transfers if one not in sister.values()}
    rows = []
    for source in methods:
        cells = [held.get((source, target)) for target in methods]
        rows.append([_transferred(cell) for cell in (*cells, sister.get(source))])
    columns = [*methods, "the same, on a fine-tune"]
    return _drawn(
        "Prompts found against a row's method, tried on a column's", columns, methods, rows
    )


def _transferred(one: Transfer | None) -> tuple[float | None, str]:
    if one is None:
        return None, ""
    if one.estimate is None:
        return None, "none found"
    return one.estimate.value, f"{one.estimate.hits}/{one.estimate.count}"


def _drawn(
    title: str, columns: list[str], rows: list[str], cells: list[list[tuple[float | None, str]]]
) -> bytes:
    """Draws a table of shares, coloured, with a text in each cell."""
    import numpy as np
    from matplotlib.figure import Figure

    size = (2.6 + 0.78 * len(columns), 1.4 + 0.34 * len(rows))
    figure = Figure(figsize=size, dpi=140, layout="constrained", facecolor="white")
    axis = figure.subplots()
    shares = np.array([[np.nan if share is None else share for share, _ in row] for row in cells])
    axis.imshow(shares, cmap="YlOrRd", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.6 else "#1f2430"
        text = cells[row][column][1]
        axis.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def markdown(matrix: Matrix, attacks: tuple[str, ...] = ()) -> str:
    """Writes the matrix as a Markdown table, methods down.

    Args:
        matrix: what was measured.
        attacks: which columns; left out, all.
    """
    methods, every = _axes(matrix)
    chosen = [attack for attack in every if not attacks or attack in attacks]
    head = " | ".join(["method", *(named(attack) for attack in chosen)])
    rows = [
        " | ".join([method, *(_text(matrix.find(method, attack)) for attack in chosen)])
        for method in methods
    ]
    rule = "|".join([" --- "] * (len(chosen) + 1))
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {row} |" for row in rows)])


def matrix_table(matrix: Matrix) -> RenderableType:
    """Renders a row for each attack and a column for each method; print it with rich."""
    from rich.table import Table
    from rich.text import Text

    methods, attacks = _axes(matrix)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("attack", no_wrap=True)
    for method in methods:
        table.add_column(method, justify="right")
    for attack in attacks:
        cells = []
        for method in methods:
            found = matrix.find(method, attack)
            share = _share(found)
            style = "dim" if share is None else ("red" if share > 0 else "green")
            cells.append(Text(_text(found), style=style, justify="right"))
        table.add_row(named(attack), *cells)
    return table


@dataclass(frozen=True)
class _Shown:
    """A cell as the page shows it."""

    text: str
    colour: str
    title: str
    cell: Cell | None
    path: str
    pictures: tuple[tuple[str, str], ...]
    """Concepts, and sheets of the pictures found, as data URIs."""


def matrix_page(matrix: Matrix, store: ResultStore) -> str:
    """Renders one self-contained page: each cell opens to its curve, numbers and pictures.

    Args:
        matrix: what was measured.
        store: holds sheets of pictures.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("efface.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    methods, attacks = _axes(matrix)
    sheets = _sheets(matrix, store)
    rows = [
        (
            named(attack),
            wording.ACCESS[_access(matrix, attack)],
            [_shown(matrix, method, attack, sheets) for method in methods],
        )
        for attack in attacks
    ]
    context = {"methods": methods, "rows": rows, "plan": matrix.plan, "failures": matrix.failures}
    environment.filters |= {"rate": _rate}
    return environment.get_template("matrix.html").render(context)


def _sheets(matrix: Matrix, store: ResultStore) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Reads the sheets of pictures of attacks that succeeded."""
    plan = decoded(Plan, matrix.plan)
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for job in plan.assaults():
        method = job.erasure.method if job.erasure else ""
        cell = matrix.find(method, job.attack, job.concept)
        name = job.result.replace(".json", ".png")
        if cell is None or not cell.failure_rate or not cell.failure_rate.hits:
            continue
        if store.has(name):
            uri = "data:image/png;base64," + base64.b64encode(store.read(name)).decode("ascii")
            found.setdefault((method, job.attack), []).append((job.concept, uri))
    return found


def _shown(
    matrix: Matrix, method: str, attack: str, sheets: dict[tuple[str, str], list[tuple[str, str]]]
) -> _Shown:
    cell = matrix.find(method, attack)
    share = _share(cell)
    colour = "unknown" if share is None else f"heat{round(10 * share)}"
    path = ""
    if cell is not None and cell.curve:
        path = steps_path(cell.curve, int(matrix.plan["budget"]["evaluations"]))
    title = f"{method} under {named(attack)}"
    return _Shown(_text(cell), colour, title, cell, path, tuple(sheets.get((method, attack), ())))


def _axes(matrix: Matrix) -> tuple[list[str], list[str]]:
    """Lists methods as planned, and attacks by what they need, those that need least first."""
    methods = [m for m in matrix.plan["methods"] if any(c.method == m for c in matrix.pooled)]
    there = [a for a in matrix.plan["attacks"] if any(c.attack == a for c in matrix.pooled)]
    order = list(wording.ACCESS)
    return methods, sorted(there, key=lambda attack: order.index(_access(matrix, attack)))


def _access(matrix: Matrix, attack: str) -> str:
    return next(cell.access for cell in matrix.pooled if cell.attack == attack)


def _label(matrix: Matrix, attack: str) -> str:
    return f"{named(attack)} ({wording.ACCESS[_access(matrix, attack)]})"


def _share(cell: Cell | None) -> float | None:
    if cell is None or cell.failure_rate is None or cell.verdict != "valid":
        return None
    return cell.failure_rate.value


def _text(cell: Cell | None) -> str:
    """Writes hits of trials; a word where there is no number."""
    if cell is None:
        return "missing"
    if not cell.applies:
        return "\N{EN DASH}"
    if cell.verdict != "valid":
        return "?" if cell.verdict == "inconclusive" else "invalid"
    rate = cell.failure_rate
    return "not erased" if rate is None else f"{rate.hits}/{rate.count}"


def _rate(estimate: Any) -> str:
    if estimate is None:
        return "not measured"
    return f"{wording.hits(estimate)} ({percent(estimate)})"
