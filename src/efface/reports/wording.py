"""How numbers, roles, verdicts and limits read in plain words; shared by every report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from efface.contracts import Estimate, Role
from efface.evaluation.limits import FEWEST_PICTURES, Limits
from efface.evaluation.outcome import Outcome, OutcomeName
from efface.evaluation.record import Evaluation, Measurement, Verdict
from efface.reports.guides import guides
from efface.reports.model_words import ROLES, ROLES_EXPLAINED, words_for

__all__ = [
    "ACCESS",
    "METRICS",
    "NOT_TESTED",
    "OUTCOMES",
    "ROLES",
    "ROLES_EXPLAINED",
    "ROUNDING",
    "VERDICTS",
    "Line",
    "chance",
    "change",
    "headline",
    "hits",
    "interval",
    "main_lines",
    "meaning",
    "named",
    "number",
    "shown",
    "size",
    "span",
    "subject",
    "title",
    "tone",
    "value",
    "within",
]

METRICS: dict[str, str] = {
    "presence": "Concept in the picture",
    "recognised": "Recognised as what it is",
    "recognised_with_margin": "Recognised by more than the head's margin",
    "found": "Found in its place",
    "ap50": "Average precision at half overlap",
    "probe": "Still read from its features by a linear classifier",
    "called_member": "Taken for a picture that it was trained on",
    "membership": "Told from held-out pictures of its class (area; 0.5: not at all)",
    "leftover": "Something of it left",
    "style_presence": "Style in the picture",
    "clip_score": "Agreement with the prompt",
    "kid": "Distance of the two sets",
    "feature_distance": "Change of the picture",
    "structure_distance": "Change of its layout",
}
VERDICTS: dict[Verdict, str] = {
    "valid": "Every control passed, so the numbers can be read.",
    "inconclusive": "A control failed. The numbers are shown, but they are no evidence.",
    "invalid": "A measurement broke. No number is given, because none would mean anything.",
    "not measured": "No judge looked, so no number is given. Pictures are there to look at.",
}
OUTCOMES: dict[OutcomeName, str] = {
    "erased": "What was to go is {gone}, and the rest is there.",
    "partly erased": "What was to go is still {left}.",
    "not erased": "What was to go is still there.",
    "others lost": "What was to go is gone, and so is more of the rest than may go.",
    "collapsed": "The edited model is wrecked: it draws other prompts as no sound erasure does.",
    "unknown": "What became of the erasure is not known.",
    "not measured": "Nobody counted whether what was to go is gone.",
}
NOT_TESTED: dict[str, str] = {
    "text only": "adversarial prompts and prompts in other languages",
    "pipeline": "parts of the base model put back, other samplers",
    "embeddings": "text embeddings in place of words",
    "gradients": "prompts and embeddings searched with gradients (concept inversion)",
    "images": "starting from a picture instead of noise",
    "weights": "fine-tuning that teaches the concept again",
}
"""Attackers that an evaluation alone does not imitate, by what they can reach."""
ACCESS: dict[str, str] = {
    "text": "text only",
    "pipeline": "pipeline",
    "text_encoder": "text only",
    "embeddings": "embeddings",
    "gradients": "gradients",
    "latents": "images",
    "weights": "weights",
}
"""What an attack needs, as the keys of `NOT_TESTED` have it; what needs least comes first. A search
with the base's own text encoder ends in prompts that anyone can type."""

_DASH = "\N{EN DASH}"
ROUNDING = 1e-12
"""Distances below it are what rounding leaves of equal things."""


def named(metric: str) -> str:
    """Gives a metric's name for people."""
    return METRICS.get(metric, metric.replace("_", " "))


def number(amount: float, unit: str) -> str:
    """Writes a number: rates as percent, others with three digits, or 0 if rounding made them."""
    if not math.isfinite(amount):
        return "unknown"
    if unit != "rate":
        return "0" if abs(amount) < ROUNDING else f"{amount:.3g}".replace("-", "\N{MINUS SIGN}")
    text = f"{100 * amount:.1f}"
    return f"{text.removesuffix('.0')} %"


def value(estimate: Estimate | None, unit: str) -> str:
    """Writes an estimate's value; a dash when there is none."""
    return _DASH if estimate is None else number(estimate.value, unit)


def span(estimate: Estimate, unit: str) -> str:
    """Writes an interval's two ends."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "no interval"
    low, high = number(estimate.low, unit), number(estimate.high, unit)
    return f"{low.removesuffix(' %')} to {high}"


def hits(estimate: Estimate) -> str:
    """Writes hits and count, or the count alone."""
    return (
        f"n {estimate.count}" if estimate.hits is None else f"{estimate.hits} of {estimate.count}"
    )


def interval(estimate: Estimate | None, unit: str) -> str:
    """Writes everything that belongs to an estimate except its value."""
    return "" if estimate is None else f"{span(estimate, unit)}, {hits(estimate)}"


def change(measurement: Measurement) -> str:
    """Writes the paired change with its sign; rates in points."""
    found = measurement.change
    if found is None:
        return _DASH
    if measurement.before is None:
        return number(found.value, measurement.unit)
    if found.value == 0:
        return "none"
    signed = (
        f"{100 * found.value:+.1f}".removesuffix(".0") + " points"
        if measurement.unit == "rate"
        else ""
    )
    return (signed or f"{found.value:+.3g}").replace("-", "\N{MINUS SIGN}")


def chance(p_value: float | None) -> str:
    """Writes a p-value."""
    if p_value is None or not math.isfinite(p_value):
        return ""
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"


def size(count: float) -> str:
    """Writes bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def shown(evaluation: Evaluation) -> tuple[Measurement, ...]:
    """Picks the rows for tables: every role, and single concepts with pictures enough.

    Single concepts with fewer pictures say nothing alone; they stay in the files.
    """
    return tuple(
        one
        for one in evaluation.measurements
        if one.concept is None
        or any(found and found.count >= FEWEST_PICTURES for found in (one.before, one.change))
    )


def subject(evaluation: Evaluation) -> str:
    """Names what was erased; long lists are cut."""
    names = evaluation.erased
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


_OPEN = ("unknown", "not measured", "partly erased", "others lost")
"""Outcomes that are neither what was wanted nor a failure alone."""


def tone(outcome: Outcome | None) -> Literal["good", "warn", "bad"]:
    """Says how an outcome is coloured; only an erasure that did what it should is green."""
    if outcome is None or outcome.name in _OPEN:
        return "warn"
    return "good" if outcome.name == "erased" else "bad"


def meaning(evaluation: Evaluation) -> str:
    """Says what an outcome means for this kind of model; empty where nothing was edited."""
    if evaluation.outcome is None:
        return ""
    words = words_for(evaluation)
    return OUTCOMES[evaluation.outcome.name].format(gone=words.gone, left=words.left)


def title(evaluation: Evaluation, base_model: str) -> str:
    """Heads a card with what was found, and never with more."""
    what, where = subject(evaluation), f" from {base_model}" if base_model else ""
    outcome = evaluation.outcome
    if outcome is None:
        return f"{what}, before any erasure{where}"
    return {
        "erased": f"{what}, erased{where}",
        "partly erased": f"{what}, partly erased{where}",
        "not erased": f"{what}, not erased{where}",
        "others lost": f"{what}, erased{where} together with others",
        "collapsed": f"A wrecked model: {what}, to be erased{where}",
        "unknown": f"{what}, to be erased{where}, with unknown outcome",
        "not measured": f"{what}, to be erased{where}, not measured",
    }[outcome.name]


@dataclass(frozen=True)
class Line:
    """One of the lines that matter, and whether it is within the limits."""

    label: str
    measurement: Measurement
    within: bool | None
    """None where there is nothing to compare."""
    failure: str
    """What it is called when it is not: "still there" or "lost"."""


def main_lines(evaluation: Evaluation) -> tuple[Line, ...]:
    """Picks erased, outlines, synonyms, neighbours, kept and style, as far as measured."""
    wanted: tuple[tuple[str, str, Role], ...] = (
        ("erased: must go", evaluation.main_metric, "erased"),
        ("outlines: must go", "leftover", "erased"),
        ("synonyms: must go", "presence", "synonym"),
        ("erased earlier: must go", evaluation.main_metric, "earlier"),
        ("neighbours: must stay", "presence", "neighbour"),
        ("kept: must stay", evaluation.main_metric, "kept"),
        ("kept, not in training", evaluation.main_metric, "missing"),
        ("composition: must stay", evaluation.main_metric, "composition"),
        ("style of kept: must stay", "style_presence", "kept"),
    )
    found = []
    for label, metric, role in wanted:
        one = evaluation.find(metric, role)
        if one is not None:
            failure = "still there" if one.better == "lower" else "lost"
            found.append(Line(label, one, within(one, evaluation.limits), failure))
    return tuple(found)


def within(one: Measurement, bounds: Limits) -> bool | None:
    """Says whether a rate is within the limits; None where nothing is compared.

    General prompts count together with kept ones, see `efface.evaluation.outcome`.
    """
    if one.before is None or one.after is None or one.unit != "rate" or one.role == "general":
        return None
    if one.better == "lower":
        return one.after.value <= bounds.most_present
    least = bounds.least_each if one.concept else bounds.least_kept
    return one.after.value >= least * one.before.value


def headline(evaluation: Evaluation) -> str:
    """Says in one sentence what was found, and never more than was measured."""
    what = subject(evaluation)
    if evaluation.verdict == "invalid":
        return f"Whether {what} was erased could not be measured."
    if evaluation.verdict == "not measured":
        return f"Whether {what} was erased was not measured: no judge looked at the pictures."
    words = words_for(evaluation)
    found = evaluation.find(evaluation.main_metric, "erased")
    if found is None or found.before is None:
        return f"Presence of {what} was not measured."
    before = f"{number(found.before.value, 'rate')} ({hits(found.before)})"
    if found.after is None:
        return words.seen_once.format(what=what, before=before)
    after = f"{number(found.after.value, 'rate')} ({hits(found.after)})"
    left = _left(evaluation)
    names = guides(evaluation)
    steered = f"; drawn with {names}, so this is what both did together" if names else ""
    return f"{words.seen.format(what=what, before=before, after=after)}{left}{steered}."


def _left(evaluation: Evaluation) -> str:
    """Adds in how many pictures the judge of leftovers still sees something."""
    found = evaluation.find("leftover", "erased")
    if found is None or found.after is None:
        return ""
    share = f"{number(found.after.value, 'rate')} ({hits(found.after)})"
    return f"; something of it may be left in {share}"
