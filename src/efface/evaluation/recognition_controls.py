"""Did forgetting work in a recogniser, and can its numbers be read? Controls, verdict, outcome.

The verdict says whether the instruments can be trusted, as for generators (`evaluation.record`);
the outcome says what became of the classes (`evaluation.outcome`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Estimate
from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.answers import Answers
from efface.evaluation.controls import verdict_of
from efface.evaluation.forgetting_scores import (
    ForgottenClasses,
    VisionRole,
    accuracy,
    accuracy_by_role,
    accuracy_change,
    pictures_by_role,
)
from efface.evaluation.likeness import LEAST_SEEN
from efface.evaluation.limits import FEWEST_PICTURES, Limits
from efface.evaluation.outcome import Outcome
from efface.evaluation.record import Control, Verdict
from efface.memory import MemoryRanOut
from efface.metrics.estimates import Comparison, rate

__all__ = [
    "LEAST_RECOGNISED",
    "MOST_STRANGERS",
    "ONE_CLASS",
    "SURE",
    "RecognitionResult",
    "collapse_control",
    "judge_forgetting",
    "measured",
    "negative_control",
    "no_op_control",
    "positive_control",
]

LEAST_RECOGNISED = 0.5
"""The unedited model must name a class that is to go in at least this share of its pictures."""
SURE = 0.5
"""A prediction at or above this probability is made with confidence."""
MOST_STRANGERS = 0.1
"""At most this share of pictures of unknown classes may be named a class that is to go, with
confidence; or twice chance, where that is more."""
ONE_CLASS = 0.9
"""A model that names one class in this share of retained pictures, which show it in at most half of
that, names it for everything."""

Name = TypeVar("Name", bound=str)
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class RecognitionResult:
    """What became of the classes that were to go, and whether that can be said."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    """Why the verdict is not "valid"."""
    outcome: Outcome
    controls: tuple[Control, ...] = ()
    before: Mapping[VisionRole, Estimate] = field(default_factory=dict)
    after: Mapping[VisionRole, Estimate] = field(default_factory=dict)
    """Both are empty when the verdict is "invalid": no number is better than a wrong one."""
    changes: Mapping[VisionRole, Comparison] = field(default_factory=dict)


def measured(
    instruments: Mapping[Name, Callable[[], Result]],
) -> tuple[dict[Name, Result], tuple[str, ...]]:
    """Runs instruments one by one; one that raises gives no number but a failure in words.

    Running out of memory is no finding about the model, so it is not caught.
    """
    found: dict[Name, Result] = {}
    failures: list[str] = []
    for name, run in instruments.items():
        try:
            found[name] = run()
        except (MemoryRanOut, MemoryError):
            raise
        except MeasurementFailed as error:
            failures.append(f"{name}: {error}")
        except Exception as error:
            failures.append(f"{name} failed: {type(error).__name__}: {error}; nothing is counted")
    return found, tuple(failures)


def positive_control(before: Answers, number: int, name: str) -> Control:
    """Checks that the unedited model recognises a class that is to go, surely above chance."""
    chance = 1 / before.classes
    mine = before.labels == number
    found = accuracy(before.where(mine)) if mine.any() else None
    passed = found is not None and found.value >= LEAST_RECOGNISED and found.low > chance
    return Control(
        name="positive",
        concept=name,
        passed=passed,
        estimate=found,
        requirement=(
            f"the unedited model names '{name}' in at least {LEAST_RECOGNISED:.0%} of its "
            f"pictures, with a lower bound above chance ({chance:.1%})"
        ),
    )


def negative_control(
    strangers: Float[Tensor, "n classes"] | None, number: int, name: str
) -> Control:
    """Checks that the unedited model does not see a class in pictures of what it never knew.

    Args:
        strangers: logits of the unedited model for pictures of classes that it was not trained on;
            None: there are none, and the control fails.
        number: of the class.
        name: of the class.

    Raises:
        MeasurementFailed: logits are not finite, or there is no picture.
    """
    most, found = MOST_STRANGERS, None
    if strangers is not None:
        # The labels are not used: these pictures have none in this head.
        answers = Answers(strangers, torch.zeros(len(strangers), dtype=torch.int64))
        most = max(MOST_STRANGERS, 2 / answers.classes)
        sure = answers.logits.double().softmax(dim=1)[:, number] >= SURE
        found = rate((sure & (answers.predictions == number).to(sure.device)).double().tolist())
    return Control(
        name="negative",
        concept=name,
        passed=found is not None and found.value <= most,
        estimate=found,
        requirement=(
            f"the unedited model names '{name}' with at least {SURE:.0%} confidence in at most "
            f"{most:.0%} of pictures of classes that it never knew"
        ),
    )


def no_op_control(before: Answers, after: Answers) -> Control:
    """Checks that the edit changes a prediction for pictures of what is to go."""
    comparison = accuracy_change(before, after)
    moved = int((before.predictions.cpu() != after.predictions.cpu()).sum())
    exact = torch.equal(before.logits.cpu(), after.logits.cpu())
    how = "and every logit is bit for bit the same" if exact else "though logits moved"
    details = (
        f"NothingChanged: the prediction is the same for all {comparison.difference.count} "
        f"pictures of the classes that are to go, {how}",
    )
    return Control(
        name="edit",
        concept="",
        passed=moved > 0,
        estimate=rate((before.predictions.cpu() != after.predictions.cpu()).double().tolist()),
        requirement="the edit changes what the model says of pictures of the forgotten classes",
        details=() if moved else details,
    )


def collapse_control(before: Answers, after_logits: Float[Tensor, "n classes"]) -> Control:
    """Checks that the edited model still recognises pictures of the retained classes.

    It has collapsed where a logit is not finite, where it recognises less than half of what it did
    (`LEAST_SEEN`), or where it says one class of nearly everything (`ONE_CLASS`).

    Args:
        before: the unedited model's answers for retained pictures.
        after_logits: the edited model's logits for the same; they may be anything.
    """
    details: list[str] = []
    found: Estimate | None = None
    broken = int((~torch.isfinite(after_logits)).any(dim=1).sum())
    if broken:
        details.append(
            f"logits of {broken} of {len(after_logits)} retained pictures are not finite"
        )
    else:
        after = Answers(after_logits, before.labels)
        found, known = accuracy(after), accuracy(before)
        if found.value < LEAST_SEEN * known.value:
            details.append(
                f"it recognises {found.hits} of {found.count} retained pictures, {known.hits} "
                f"before (at least {LEAST_SEEN:.0%} of that is asked)"
            )
        details += _one_class(after)
    return Control(
        name="model",
        concept="",
        passed=not details,
        estimate=found,
        requirement="the edited model still recognises pictures of the retained classes",
        details=tuple(details),
    )


def judge_forgetting(
    before: Answers,
    after_logits: Float[Tensor, "n classes"],
    classes: ForgottenClasses,
    *,
    names: Sequence[str],
    strangers: Float[Tensor, "m classes"] | None = None,
    limits: Limits | None = None,
    failures: Sequence[str] = (),
) -> RecognitionResult:
    """Gives accuracies by role, controls, the verdict and the outcome of forgetting classes.

    Earlier forgotten classes are asked no positive control: the model before this request need not
    know them.

    Args:
        before: answers of the model before this request, for held-out pictures of all classes.
        after_logits: logits of the edited model for the same pictures; they may be anything.
        classes: what is to go, and what went before.
        names: of the head's classes, by number.
        strangers: logits of the model before, for pictures of classes that it never knew.
        limits: what counts as erased and as lost; None: the defaults.
        failures: what instruments said that failed before (`measured`).

    Raises:
        BadRequest: names, classes or logits do not fit the head, or no class is retained.
        MeasurementFailed: a role has classes but no pictures.
    """
    if len(names) != before.classes or after_logits.shape != before.logits.shape:
        raise BadRequest(
            f"{len(names)} names and logits of shape {tuple(after_logits.shape)} do not fit "
            f"answers of shape {tuple(before.logits.shape)}; ask both models the same"
        )
    places = pictures_by_role(before, classes)
    if "retained" not in places:
        raise BadRequest("no class is retained, so a collapse cannot be told; forget fewer")
    known = {role: before.where(at) for role, at in places.items()}
    model = collapse_control(known["retained"], after_logits[places["retained"]])
    made, failed = measured(
        {"controls": lambda: _instrument_controls(before, classes, names, strangers)}
    )
    after, broken = measured(
        {role: partial(Answers, after_logits[at], before.labels[at]) for role, at in places.items()}
    )
    controls = (*made.get("controls", ()), model)
    every = (*failures, *failed, *broken)
    if every:
        return _invalid(every, controls)
    controls = (*controls, no_op_control(known["forgotten"], after["forgotten"]))
    verdict, reasons = verdict_of((), controls)
    return RecognitionResult(
        verdict=verdict,
        reasons=reasons,
        outcome=_outcome(verdict, controls, (known, after), names, limits or Limits()),
        controls=controls,
        before=accuracy_by_role(known),
        after=accuracy_by_role(after),
        changes={role: accuracy_change(known[role], after[role]) for role in known},
    )


def _invalid(failures: Sequence[str], controls: tuple[Control, ...]) -> RecognitionResult:
    verdict, reasons = verdict_of(failures, controls)
    wrecked = tuple(
        detail
        for one in controls
        if one.name == "model" and not one.passed
        for detail in one.details
    )
    outcome = Outcome("collapsed", wrecked) if wrecked else Outcome("unknown", reasons)
    return RecognitionResult(verdict=verdict, reasons=reasons, outcome=outcome, controls=controls)


def _instrument_controls(
    before: Answers,
    classes: ForgottenClasses,
    names: Sequence[str],
    strangers: Tensor | None,
) -> tuple[Control, ...]:
    found: list[Control] = []
    for number in classes.forgotten:
        found.append(positive_control(before, number, names[number]))
        found.append(negative_control(strangers, number, names[number]))
    return tuple(found)


def _one_class(after: Answers) -> list[str]:
    """Says whether one class is named for nearly everything, which is not nearly all there is."""
    counts = after.predictions.cpu().bincount(minlength=after.classes)
    number = int(counts.argmax())
    shown = int((after.labels == number).sum())
    if int(counts[number]) < ONE_CLASS * len(after) or 2 * shown > int(counts[number]):
        return []
    return [
        f"it names class {number} for {int(counts[number])} of {len(after)} retained pictures, of "
        f"which {shown} show it"
    ]


_Sides: TypeAlias = tuple[Mapping[VisionRole, Answers], Mapping[VisionRole, Answers]]


def _outcome(
    verdict: Verdict,
    controls: Sequence[Control],
    sides: _Sides,
    names: Sequence[str],
    limits: Limits,
) -> Outcome:
    wrecked = [one for one in controls if one.name == "model" and not one.passed]
    if wrecked:
        return Outcome("collapsed", wrecked[0].details)
    idle = [one for one in controls if one.name == "edit" and not one.passed]
    if idle:
        return Outcome("not erased", idle[0].details)
    if verdict != "valid":
        return Outcome("unknown", ("a control failed, so that nothing can be said",))
    return _by_numbers(sides, names, limits)


def _by_numbers(sides: _Sides, names: Sequence[str], limits: Limits) -> Outcome:
    after = sides[1]
    left: list[str] = []
    fell = False
    for number in after["forgotten"].labels.unique().tolist():
        first, second = _class_rates(sides, "forgotten", number)
        gone = second.value <= limits.most_present
        fell = fell or gone or second.value <= limits.partly_present * first.value
        if not gone:
            left.append(f"{names[number]}: still named in {second.hits} of {second.count} pictures")
    lost = _losses(sides, names, limits)
    if left:
        return Outcome("partly erased" if fell else "not erased", (*left, *lost))
    if "earlier" in after:
        back = accuracy(after["earlier"])
        if back.value > limits.most_present:
            text = f"classes of earlier requests: named in {back.hits} of {back.count} pictures"
            return Outcome("partly erased", (text, *lost))
    return Outcome("others lost", lost) if lost else Outcome("erased")


def _losses(sides: _Sides, names: Sequence[str], limits: Limits) -> tuple[str, ...]:
    """Says what of the retained classes fell below the limits, together and one by one."""
    before, after = sides
    texts = [_loss("retained classes", before["retained"], after["retained"], limits.least_kept)]
    for number in after["retained"].labels.unique().tolist():
        mine = before["retained"].labels == number
        pair = (before["retained"].where(mine), after["retained"].where(mine))
        texts.append(_loss(names[number], *pair, limits.least_each))
    return tuple(text for text in texts if text)


def _loss(label: str, before: Answers, after: Answers, least: float) -> str:
    first, second = accuracy(before), accuracy(after)
    if first.count < FEWEST_PICTURES or second.value >= least * first.value:
        return ""
    return f"{label}: named in {second.hits} of {second.count} pictures, in {first.hits} before"


def _class_rates(sides: _Sides, role: VisionRole, number: int) -> tuple[Estimate, Estimate]:
    first, second = (accuracy(side[role].of((number,))) for side in sides)
    return first, second
