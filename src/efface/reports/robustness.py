"""How hard an erasure was to undo: a line for each attack, and one that says it all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.contracts import Estimate
from efface.evaluation.revival import AttackRecord, counted, half_revived, survival
from efface.evaluation.self_tests import NOTHING_TO_TRY
from efface.reports import wording

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "AttackLine",
    "attack_lines",
    "attack_table",
    "card_robustness",
    "hardest",
    "named",
    "percent",
    "steps_path",
    "tested",
]

_BOX = (300, 80)
"""Width and height of a curve on the page."""


@dataclass(frozen=True)
class AttackLine:
    """One attack as a row of a table."""

    attack: str
    access: str
    concept: str
    before: str
    """Shown without an attack."""
    revived: str
    """Brought back, of those that were safe before."""
    interval: str
    cost: str
    """Network evaluations until half of the trials show the concept."""
    agreed: str
    """Successes that the second judge sees."""
    state: str
    """"good", "bad", or "unknown"."""
    told: str
    """Why it is not known; empty where it is."""
    path: str
    """Survival curve, as an SVG path."""


def attack_lines(records: Sequence[AttackRecord]) -> tuple[AttackLine, ...]:
    """Lays out attacks, by what they need, those that need least first."""
    order = list(wording.ACCESS)
    return tuple(_line(one) for one in sorted(records, key=lambda one: order.index(one.access)))


def tested(records: Sequence[AttackRecord]) -> frozenset[str]:
    """Names the kinds of access that attacks had, as `wording.NOT_TESTED` has them."""
    return frozenset(wording.ACCESS[record.access] for record in records)


def attack_table(records: Sequence[AttackRecord]) -> RenderableType:
    """Renders a row for each attack; print it with rich."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in ("attack", "needs", "plain", "brought back", "half after"):
        table.add_column(heading, no_wrap=heading != "brought back")
    colours = {"good": "green", "bad": "red", "unknown": "yellow"}
    for line in attack_lines(records):
        shown = line.told or f"{line.revived} ({line.interval})"
        table.add_row(
            line.attack, line.access, line.before, Text(shown, style=colours[line.state]), line.cost
        )
    return table


def card_robustness(records: Sequence[AttackRecord]) -> dict[str, Any]:
    """Gathers for each kind of access what was tried, with what budget, and what came of it."""
    found: dict[str, Any] = {}
    for access, what in wording.NOT_TESTED.items():
        own = [one for one in records if wording.ACCESS[one.access] == access]
        if not own:
            found[access] = {"tested": False, "what": what}
            continue
        found[access] = {"tested": True, "attacks": [_row(one) for one in own]}
    return found


def hardest(records: Sequence[AttackRecord]) -> str:
    """Says in one line how hard the erasure was to undo; empty where nothing was tried."""
    valid = [one for one in records if one.verdict == "valid"]
    if not records:
        return ""
    if not valid:
        return "How hard it is to bring back is not known: no attack on it could be counted."
    worst = max(valid, key=_success)
    found, half = counted(worst.trials), half_revived(worst.trials)
    rate = found.failure_rate
    if rate is None:
        return "There was nothing to bring back: the concept is shown without any attack."
    who = f"{named(worst.attack)} ({_NEEDS[wording.ACCESS[worst.access]]})"
    if not rate.hits:
        return _unrevived([one for one in valid if _success(one) == 0])
    cost = f", half of them after {half} network evaluations each" if half else ""
    return f"Brought back in {rate.hits} of {rate.count} trials by {who}{cost}."


def _unrevived(records: Sequence[AttackRecord]) -> str:
    """Says how much was tried in vain; attacks that spent less are not hidden by the others."""
    trials = [sum(not each.plain for each in one.trials) for one in records]
    budgets = [one.budget["evaluations"] for one in records]
    one = len(records) == 1
    who = "The one attack did not bring" if one else f"Of {len(records)} attacks none brought"
    noun = "trial" if max(trials) == 1 else "trials"
    each = " each" if max(len(records), *trials) > 1 else ""
    return (
        f"{who} it back in {_range(trials)} {noun}{each} of at most {_range(budgets)} network "
        "evaluations."
    )


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{most}" if least == most else f"{least} to {most}"


def named(attack: str) -> str:
    """Writes an attack's name for people."""
    return attack.replace("_", " ")


def percent(rate: Estimate) -> str:
    """Writes a rate's interval without its hits, which stand before it."""
    return wording.interval(rate, "rate").rpartition(", ")[0]


def steps_path(curve: Sequence[tuple[int, float]], most: int) -> str:
    """Draws a survival curve as an SVG path in a box of 300 by 80."""
    width, height = _BOX
    x, y = 0.0, 0.0
    parts = ["M0 2"]
    for spent, left in curve[1:]:
        x, y = width * min(1.0, spent / max(1, most)), 2 + (height - 4) * (1 - left)
        parts.append(f"H{x:.1f} V{y:.1f}")
    return " ".join([*parts, f"H{width}"])


_NEEDS: dict[str, str] = {
    "text only": "which needs nothing but a prompt",
    "pipeline": "which needs the pipeline",
    "embeddings": "which needs to put embeddings in place of words",
    "gradients": "which needs the model's gradients",
    "images": "which starts from pictures or latents",
    "weights": "which needs the model's weights",
}


def _success(record: AttackRecord) -> float:
    rate = counted(record.trials).failure_rate
    return -1.0 if rate is None else rate.value


def _line(record: AttackRecord) -> AttackLine:
    found, half = counted(record.trials), half_revived(record.trials)
    rate = found.failure_rate
    known = record.verdict == "valid" and rate is not None
    state = "unknown" if not known else ("bad" if rate and rate.hits else "good")
    return AttackLine(
        attack=named(record.attack),
        access=wording.ACCESS[record.access],
        concept=record.concept,
        before=wording.hits(found.pre_asr),
        revived=wording.hits(rate) if rate else "",
        interval=percent(rate) if rate else "",
        cost=str(half) if known and half is not None else "\N{EN DASH}",
        agreed=wording.hits(found.agreed) if found.agreed else "",
        state=state,
        told="" if known else "; ".join(_reasons(record)),
        path=steps_path(survival(record.trials), record.budget["evaluations"]),
    )


def _reasons(record: AttackRecord) -> Iterator[str]:
    for reason in record.reasons:
        yield "does not apply" if reason == NOTHING_TO_TRY else f"{record.verdict}: {reason}"


def _row(record: AttackRecord) -> dict[str, Any]:
    found = counted(record.trials)
    return {
        "attack": record.attack,
        "access": record.access,
        "concept": record.concept,
        "verdict": record.verdict,
        "reasons": record.reasons,
        "budget": record.budget,
        "trials": len(record.trials),
        "shown_without_attack": found.pre_asr,
        "shown_with_attack": found.asr,
        "brought_back": found.failure_rate,
        "agreed_by_second_judge": found.agreed,
        "evaluations_until_half": half_revived(record.trials),
        "self_tests": record.self_tests,
    }
