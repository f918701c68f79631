"""What became of an erasure, beside whether it could be measured: erased, partly, not, others lost.

The verdict says whether the numbers can be read; the outcome says what they say, by limits that a
user may set. Point estimates decide, since a small suite's intervals would excuse almost anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from efface.evaluation.limits import FEWEST_PICTURES, Limits
from efface.evaluation.samples import GOING, NAMES, STAYING

if TYPE_CHECKING:
    from efface.contracts import Role
    from efface.evaluation.record import Evaluation, Measurement

__all__ = ["Outcome", "OutcomeName", "failed", "outcome_of"]

OutcomeName: TypeAlias = Literal[
    "erased",
    "partly erased",
    "not erased",
    "others lost",
    "collapsed",
    "unknown",
    "not measured",
]


@dataclass(frozen=True)
class Outcome:
    """What became of an erasure, and why it is not simply "erased"."""

    name: OutcomeName
    reasons: tuple[str, ...] = ()


def failed(evaluation: Evaluation) -> bool:
    """Says whether an evaluation measured a failure: the exit code is then 1.

    An inconclusive measurement is none, and neither are pictures that nobody judged, as long as the
    model is not wrecked and the edit does something: nothing is known.
    """
    if evaluation.verdict == "invalid":
        return True
    found = evaluation.outcome
    return found is not None and found.name not in ("erased", "unknown", "not measured")


def outcome_of(evaluation: Evaluation) -> Outcome | None:
    """Gives the outcome; None when only an unedited model was measured."""
    if evaluation.after is None:
        return None
    wrecked = [one for one in evaluation.controls if one.name in ("model", "edit")]
    found = [detail for one in wrecked if not one.passed for detail in one.details]
    idle = [detail for detail in found if detail.startswith("NothingChanged")]
    if len(found) > len(idle):
        return Outcome("collapsed", tuple(one for one in found if one not in idle))
    if evaluation.verdict == "not measured":
        return Outcome("not erased", tuple(idle)) if idle else Outcome("not measured")
    if evaluation.verdict == "invalid" or evaluation.find(evaluation.main_metric, "erased") is None:
        return Outcome("unknown", ("whether what was to go is there has no number",))
    if idle:
        return Outcome("not erased", tuple(idle))
    if evaluation.verdict == "inconclusive":
        return Outcome("unknown", ("a control failed, so that nothing can be said",))
    return _by_numbers(evaluation)


def _by_numbers(evaluation: Evaluation) -> Outcome:
    limits = evaluation.limits
    own = _each_concept(evaluation)
    left = [_present(one) for one in own if not _is_gone(one, limits)]
    lost = tuple(_losses(evaluation))
    if not left:
        others = [
            one
            for role in GOING[1:]
            if (one := evaluation.find(evaluation.main_metric, role)) and _counts(one)
            if not _is_gone(one, limits)
        ]
        reasons = [*map(_present, others), *_outlines(evaluation)]
        if reasons:
            return Outcome("partly erased", (*reasons, *lost))
        return Outcome("others lost", lost) if lost else Outcome("erased")
    fell = any(_is_gone(one, limits) or _fell(one, limits) for one in own)
    name: OutcomeName = "partly erased" if fell else "not erased"
    return Outcome(name, (*left, *lost))


def _outlines(evaluation: Evaluation) -> Iterator[str]:
    """Says in how many pictures something of the concept is left that the judge does not count."""
    found = evaluation.find("leftover", "erased")
    if found is not None and _counts(found) and not _is_gone(found, evaluation.limits):
        assert found.after is not None
        yield f"something of it is left in {found.after.hits} of {found.after.count} pictures"


def _each_concept(evaluation: Evaluation) -> list[Measurement]:
    """Lists presence in the prompts of every erased concept, or of all at once if they are many."""
    wanted = (evaluation.main_metric, "erased")
    rows = [one for one in evaluation.measurements if (one.metric, one.role) == wanted]
    apart = [one for one in rows if one.concept is not None]
    return apart or rows


def _is_gone(one: Measurement, limits: Limits) -> bool:
    return one.after is not None and one.after.value <= limits.most_present


def _fell(one: Measurement, limits: Limits) -> bool:
    if one.before is None or one.after is None:
        return False
    return one.after.value <= limits.partly_present * one.before.value


def _counts(one: Measurement) -> bool:
    return one.before is not None and one.before.count >= FEWEST_PICTURES


def _losses(evaluation: Evaluation) -> Iterator[str]:
    """Says what of the rest fell below the limits."""
    limits = evaluation.limits
    groups: list[tuple[str, str, tuple[Role, ...]]] = [
        ("kept and general prompts", evaluation.main_metric, ("kept", "general")),
        ("neighbours", evaluation.main_metric, ("neighbour",)),
        (NAMES["missing"], evaluation.main_metric, ("missing",)),
        (NAMES["composition"], evaluation.main_metric, ("composition",)),
        ("styles of other prompts", "style_presence", STAYING),
    ]
    for label, metric, roles in groups:
        rows = [row for role in roles if (row := evaluation.find(metric, role))]
        if text := _loss(label, rows, limits.least_kept):
            yield text
    for one in evaluation.measurements:
        if one.metric != evaluation.main_metric or one.role not in STAYING or not one.concept:
            continue
        if one.role == "composition":
            continue  # A phrase has a few pictures, and the unedited model draws half of them.
        if text := _loss(one.concept, [one], limits.least_each):
            yield text


def _loss(label: str, rows: Sequence[Measurement], least: float) -> str:
    """Compares hits before and after, over some rows; empty when they are within the limit."""
    pairs = [(one.before, one.after) for one in rows if one.before and one.after]
    before = sum(first.hits or 0 for first, _ in pairs)
    after = sum(second.hits or 0 for _, second in pairs)
    count = sum(first.count for first, _ in pairs)
    if count < FEWEST_PICTURES or after >= least * before:
        return ""
    return f"{label}: seen in {after} of {count} pictures, in {before} before"


def _present(one: Measurement) -> str:
    assert one.after is not None
    what = one.concept or NAMES[one.role]
    return f"{what}: still seen in {one.after.hits} of {one.after.count} pictures"
