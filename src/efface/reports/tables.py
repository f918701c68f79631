"""The terminal's tables: five lines that matter, and everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from efface.evaluation.record import Evaluation, Measurement
from efface.reports import wording
from efface.reports.model_words import ModelWords, words_for
from efface.reports.whereabouts import Whereabouts, whereabouts

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["console_summary", "console_table"]

_NARROW = 76
"""Columns of a terminal below which rows are written one under the other, words whole."""


def console_summary(evaluation: Evaluation) -> RenderableType:
    """Renders verdict, outcome and the five lines that matter; print it with rich."""
    parts: list[RenderableType] = [_verdict(evaluation)]
    rows = list(_rows(evaluation))
    if rows:
        heading = wording.METRICS[evaluation.main_metric].lower()
        parts += [Text(), _Rows(rows, heading, words_for(evaluation).counted)]
    parts += [Text(f"note: {note}", style="dim") for note in evaluation.notes]
    return Group(*parts)


def console_table(evaluation: Evaluation) -> RenderableType:
    """Renders verdict, outcome, all measurements with intervals, controls and cost."""
    parts: list[RenderableType] = [_verdict(evaluation)]
    title = f"\nsuite {evaluation.suite}, judge {evaluation.judge.name}"
    if evaluation.measurements:
        parts += [Text(title), *_metrics(evaluation)]
    parts += [Text(_went(each, words_for(evaluation))) for each in whereabouts(evaluation)]
    parts += [Text(), _controls(evaluation), _costs(evaluation)]
    parts += [Text(f"note: {note}", style="dim") for note in evaluation.notes]
    return Group(*parts)


def _verdict(evaluation: Evaluation) -> Text:
    colour, outcome = _COLOURS[evaluation.verdict], evaluation.outcome
    text = Text()
    text.append(evaluation.verdict.upper(), style=f"bold {colour}")
    if outcome is not None and outcome.name != evaluation.verdict:
        text.append("  ")
        text.append(outcome.name.upper(), style=f"bold {_COLOURS[wording.tone(outcome)]}")
    text.append(f"  {wording.headline(evaluation)}")
    told = [*evaluation.reasons]
    if outcome is not None:
        known = " ".join(told)
        told += [reason for reason in outcome.reasons if reason not in known]
    for reason in told:
        text.append(f"\n- {reason}")
    return text


_COLOURS = {
    "valid": "green",
    "inconclusive": "yellow",
    "invalid": "red",
    "not measured": "yellow",
    "good": "green",
    "warn": "yellow",
    "bad": "red",
}


@dataclass(frozen=True)
class _Row:
    label: str
    before: str
    after: str
    interval: str
    mark: str
    tone: str


class _Rows:
    """Rows side by side where there is room, else one under the other; no word is broken."""

    def __init__(self, rows: Sequence[_Row], heading: str, counted: str) -> None:
        self._rows, self._heading, self._counted = rows, heading, counted

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width >= _NARROW:
            table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
            table.add_column(self._heading)
            for heading in ("before", "after"):
                table.add_column(heading, justify="right", no_wrap=True)
            table.add_column(f"95 % interval, {self._counted}")
            table.add_column("")
            for row in self._rows:
                mark = Text(row.mark, style=_COLOURS.get(row.tone, ""))
                table.add_row(Text(row.label), row.before, row.after, row.interval, mark)
            yield table
            return
        for row in self._rows:
            text = Text(f"{row.label}: {row.before} before, {row.after} after ")
            text.append(f"({row.interval})", style="dim")
            text.append(f" {row.mark}", style=_COLOURS.get(row.tone, ""))
            yield text


def _rows(evaluation: Evaluation) -> Iterator[_Row]:
    for line in wording.main_lines(evaluation):
        found = line.measurement
        latest = found.after or found.before
        before = wording.value(found.before, "rate") if found.after else ""
        mark = "" if line.within is None else ("ok" if line.within else line.failure)
        tone = "" if line.within is None else ("good" if line.within else "bad")
        yield _Row(
            line.label,
            before,
            wording.value(latest, "rate"),
            wording.interval(latest, "rate"),
            mark,
            tone,
        )


def _metrics(evaluation: Evaluation) -> Iterator[RenderableType]:
    rows = wording.shown(evaluation)
    for metric in dict.fromkeys(one.metric for one in rows):
        yield Text(f"\n{metric}", style="bold")
        yield _Metric([one for one in rows if one.metric == metric])


class _Metric:
    """All rows of one metric."""

    def __init__(self, rows: Sequence[Measurement]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < _NARROW:
            for one in self._rows:
                yield _stacked(one)
            return
        paired = self._rows[0].before is not None
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("role", min_width=16)
        for heading in ("before", "after", "change") if paired else ("distance",):
            table.add_column(heading, justify="right", min_width=17 if paired else 24)
        for one in self._rows:
            cells = [Text(_role(one)), *(Text(text, justify="right") for text in _numbers(one))]
            table.add_row(*cells)
        yield table


def _stacked(one: Measurement) -> Text:
    heads = ("before", "after", "change") if one.before is not None else ("distance",)
    lines = [f"  {head}: {text}" for head, text in zip(heads, _numbers(one), strict=True)]
    return Text("\n".join([_role(one), *(line.replace("\n", ", ") for line in lines)]))


def _role(one: Measurement) -> str:
    arrow = "\N{DOWNWARDS ARROW}" if one.better == "lower" else "\N{UPWARDS ARROW}"
    return (
        f"  {one.concept} {arrow}" if one.concept else f"{wording.ROLES[one.role].lower()} {arrow}"
    )


def _numbers(one: Measurement) -> tuple[str, ...]:
    unit, change = one.unit, one.change
    if one.before is None:
        return (f"{wording.change(one)}\n{wording.interval(change, unit)}",)
    before, after = (
        "\n".join([wording.value(each, unit), wording.interval(each, unit)]).rstrip()
        for each in (one.before, one.after)
    )
    if change is None:
        return before, after, wording.change(one)
    note = wording.chance(one.p_value) or wording.interval(change, unit)
    return before, after, f"{wording.change(one)}\n{note}"


def _went(found: Whereabouts, words: ModelWords) -> str:
    """Writes what one concept went to; lines, since names may be long."""
    title = f"\n{words.first.format(what=found.concept)}, of {found.count} {words.counted}"
    lines = [f"  {name}: {before} before, {after} after" for name, before, after in found.rows]
    return "\n".join([title, *lines])


def _controls(evaluation: Evaluation) -> Text:
    text = Text()
    for control in evaluation.controls:
        mark, colour = ("passed", "green") if control.passed else ("FAILED", "red")
        seen = wording.hits(control.estimate) if control.estimate else ""
        text.append(f"{control.name} control ")
        text.append(mark, style=colour)
        told = "; ".join(control.details) or control.requirement
        text.append(f": {seen + ' ' if seen else ''}({told})\n", style="dim")
    return text


def _costs(evaluation: Evaluation) -> Text:
    lines = [
        f"{name}: {cost.pictures} {words_for(evaluation).counted}, {cost.seconds:.1f} s, "
        f"{cost.network_evaluations:.0f} network evaluations, {wording.size(cost.peak_bytes)} peak"
        for name, cost in evaluation.costs.items()
    ]
    if evaluation.changed:
        lines.append(
            f"changed: {evaluation.parameters_touched:,} parameters in "
            f"{len(evaluation.changed)} tensors"
        )
    return Text("\n".join(lines), style="dim")
