"""The terminal's tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from efface.evaluation.record import Evaluation, Measurement
from efface.reports import wording

__all__ = ["console_table"]

_COLOURS = {"valid": "green", "inconclusive": "yellow", "invalid": "red"}


def console_table(evaluation: Evaluation) -> RenderableType:
    """Renders verdict, measurements with intervals, controls and cost; print it with rich."""
    parts: list[RenderableType] = [_verdict(evaluation)]
    if evaluation.measurements:
        parts.append(_measurements(evaluation))
    parts += [_controls(evaluation), _costs(evaluation)]
    return Group(*parts)


def _verdict(evaluation: Evaluation) -> Text:
    text = Text()
    text.append(evaluation.verdict.upper(), style=f"bold {_COLOURS[evaluation.verdict]}")
    text.append(f"  {wording.headline(evaluation)}")
    for reason in evaluation.reasons:
        text.append(f"\n  {reason}")
    return text


def _measurements(evaluation: Evaluation) -> Table:
    table = Table(title=f"suite {evaluation.suite}, judge {evaluation.judge.name}", title_style="")
    for heading in ("metric", "role"):
        table.add_column(heading)
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    table.add_column("wanted", justify="center")
    shown = ""
    for one in wording.shown(evaluation):
        first = "" if one.metric == shown else one.metric
        if first and shown:
            table.add_section()
        shown = one.metric
        table.add_row(first, _role(one), *_numbers(one), _arrow(one))
    return table


def _role(measurement: Measurement) -> str:
    concept = measurement.concept
    return f"  {escape(concept)}" if concept else wording.ROLES[measurement.role].lower()


def _numbers(measurement: Measurement) -> tuple[str, str, str]:
    unit = measurement.unit
    estimates = [measurement.before, measurement.after]
    before, after = (
        f"{wording.value(one, unit)}\n[dim]{wording.interval(one, unit)}[/]" for one in estimates
    )
    found = measurement.change
    if found is None:
        return before, after, wording.change(measurement)
    note = wording.chance(measurement.p_value) or wording.interval(found, unit)
    return before, after, f"{wording.change(measurement)}\n[dim]{note}[/]"


def _arrow(measurement: Measurement) -> str:
    return "\N{DOWNWARDS ARROW}" if measurement.better == "lower" else "\N{UPWARDS ARROW}"


def _controls(evaluation: Evaluation) -> Text:
    text = Text()
    for control in evaluation.controls:
        mark, colour = ("passed", "green") if control.passed else ("FAILED", "red")
        seen = wording.hits(control.estimate) if control.estimate else "not measured"
        text.append(f"{control.name} control ")
        text.append(mark, style=colour)
        text.append(f": {seen} ({control.requirement})\n", style="dim")
    return text


def _costs(evaluation: Evaluation) -> Text:
    lines = [
        f"{name}: {cost.pictures} pictures, {cost.seconds:.1f} s, "
        f"{cost.network_evaluations:.0f} network evaluations, {wording.size(cost.peak_bytes)} peak"
        for name, cost in evaluation.costs.items()
    ]
    if evaluation.changed:
        lines.append(
            f"changed: {evaluation.parameters_touched:,} parameters in "
            f"{len(evaluation.changed)} tensors"
        )
    return Text("\n".join(lines), style="dim")
