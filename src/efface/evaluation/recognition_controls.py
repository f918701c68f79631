"""Can numbers of forgetting in a recogniser be read? Checked in every run, on its own answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from efface.contracts import Estimate, Role
from efface.evaluation.answers import Answers
from efface.evaluation.forgetting_scores import (
    accuracy,
    accuracy_change,
)
from efface.evaluation.likeness import LEAST_SEEN
from efface.evaluation.record import Control
from efface.metrics.estimates import rate

__all__ = [
    "LEAST_RECOGNISED",
    "MOST_MISTAKEN",
    "MOST_STRANGERS",
    "ONE_CLASS",
    "SURE",
    "collapse_control",
    "forgetting_controls",
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
MOST_MISTAKEN = 0.1
"""Without such pictures: at most this share of kept ones may be named a class that is to go."""
ONE_CLASS = 0.9
"""A model that names one class in this share of retained pictures, which show it in at most half of
that, names it for everything."""


def forgetting_controls(
    before: Answers,
    after: Float[Tensor, "n classes"],
    roles: Sequence[Role],
    *,
    names: Sequence[str],
    strangers: Float[Tensor, "m classes"] | None = None,
) -> tuple[Control, ...]:
    """Checks what the unedited model knows, and whether the edit did something and not too much.

    Args:
        before: the unedited model's answers.
        after: the edited model's logits for the same pictures; they may be anything.
        roles: of each picture.
        names: of the head's classes.
        strangers: the unedited model's logits for pictures of classes that it never knew; kept
            pictures stand in for them where there are none.

    Raises:
        MeasurementFailed: a role that is needed has no picture.
    """
    own = torch.tensor([role == "erased" for role in roles])
    kept = before.where(torch.tensor([role in ("kept", "missing") for role in roles]))
    found: list[Control] = []
    for number in before.labels[own].unique().tolist():
        found.append(positive_control(before, number, names[number]))
        if strangers is None:
            found.append(_mistaken(kept, number, names[number]))
        else:
            found.append(negative_control(strangers, number, names[number]))
    stays = torch.tensor([role in ("kept", "missing") for role in roles])
    found.append(collapse_control(kept, after[stays]))
    if bool(torch.isfinite(after).all()):
        edited = Answers(after, before.labels).where(own)
        found.append(no_op_control(before.where(own), edited))
    return tuple(found)


def _mistaken(kept: Answers, number: int, name: str) -> Control:
    """Checks that the unedited model does not see a class in kept pictures."""
    hits = (kept.predictions == number).double().tolist()
    found = rate(hits, [str(label) for label in kept.labels.tolist()])
    return Control(
        name="negative",
        concept=name,
        passed=found.value <= MOST_MISTAKEN,
        estimate=found,
        requirement=(
            f"the unedited model names '{name}' in at most {MOST_MISTAKEN:.0%} of kept pictures"
        ),
    )


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
