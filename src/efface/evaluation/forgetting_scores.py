"""How much of what was to be forgotten a recogniser still names, and how much of the rest.

Accuracies are 0 to 1 with hits, count and interval. The names follow GS-LoRA (CVPR 2024): Acc_f,
Acc_r, Acc_o and Acc_m are the roles forgotten, retained, earlier and missing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from efface.contracts import Estimate
from efface.deltas.delta import Delta
from efface.deltas.patches import LowRankPatch, Patch, TextMapPatch
from efface.errors import BadRequest, MeasurementFailed
from efface.evaluation.answers import Answers
from efface.metrics.estimates import Comparison, compare_rates, rate

__all__ = [
    "ForgottenClasses",
    "MarginAccuracy",
    "VisionRole",
    "accuracy",
    "accuracy_by_role",
    "accuracy_change",
    "by_class",
    "drop",
    "h_mean",
    "margin_accuracy",
    "pictures_by_role",
    "tunable_ratio",
    "with_margin",
    "zero_group_ratio",
]

VisionRole: TypeAlias = Literal["forgotten", "retained", "earlier", "missing", "test"]
Groups: TypeAlias = Sequence[Hashable] | None


@dataclass(frozen=True, kw_only=True)
class ForgottenClasses:
    """Which classes of the head play which role; all others are retained.

    Raises:
        BadRequest: nothing is to be forgotten, or a class has two roles.
    """

    forgotten: tuple[int, ...]
    """Classes of this request."""
    earlier: tuple[int, ...] = ()
    """Classes of requests before it."""
    missing: tuple[int, ...] = ()
    """Retained classes of which the method was given no picture; they count as retained, too."""

    def __post_init__(self) -> None:
        if not self.forgotten:
            raise BadRequest("no class is to be forgotten; name at least one")
        every = [*self.forgotten, *self.earlier, *self.missing]
        twice = sorted({one for one in every if every.count(one) > 1})
        if twice:
            raise BadRequest(f"classes {twice} are named twice; a class has one role")


@dataclass(frozen=True)
class MarginAccuracy:
    """Accuracy of a CosFace head without its margin and with it."""

    free: Estimate
    """What a user of the model sees."""
    with_margin: Estimate
    """What GS-LoRA's tables hold: the true class is counted only if it wins by the margin."""


def accuracy(answers: Answers, groups: Groups = None) -> Estimate:
    """Estimates how often the prediction is the label.

    Args:
        answers: what the model says of pictures, and what they show.
        groups: what each picture belongs to, such as the drawing that it is a view of.
    """
    return rate(answers.hits, groups)


def by_class(answers: Answers, classes: ForgottenClasses) -> dict[VisionRole, Answers]:
    """Sorts pictures into roles by their class; roles without classes are left out.

    Raises:
        BadRequest: the head has no such class.
        MeasurementFailed: a role has classes but no pictures.
    """
    places = pictures_by_role(answers, classes)
    return {role: answers.where(chosen) for role, chosen in places.items()}


def pictures_by_role(
    answers: Answers, classes: ForgottenClasses
) -> dict[VisionRole, Bool[Tensor, " n"]]:
    """Says which pictures have which role, as `by_class` sorts them."""
    gone = (*classes.forgotten, *classes.earlier)
    named: dict[VisionRole, tuple[int, ...]] = {
        "forgotten": classes.forgotten,
        "retained": tuple(one for one in range(answers.classes) if one not in gone),
        "earlier": classes.earlier,
        "missing": classes.missing,
    }
    places: dict[VisionRole, Tensor] = {}
    for role, numbers in named.items():
        if not numbers:
            continue
        outside = [one for one in numbers if not 0 <= one < answers.classes]
        if outside:
            raise BadRequest(
                f"classes {outside} are not in a head of {answers.classes} classes; "
                "use the numbers of its labels"
            )
        chosen = torch.isin(answers.labels, torch.tensor(numbers, device=answers.labels.device))
        if not chosen.any():
            raise MeasurementFailed(
                f"no picture shows a class of the role '{role}' ({len(numbers)} classes); "
                "add pictures of them"
            )
        places[role] = chosen
    return places


def accuracy_by_role(answers: Mapping[VisionRole, Answers]) -> dict[VisionRole, Estimate]:
    """Estimates the accuracy of every role.

    Raises:
        MeasurementFailed: there is no role.
    """
    if not answers:
        raise MeasurementFailed("there is no role to measure; give answers for at least one")
    return {role: accuracy(given) for role, given in answers.items()}


def accuracy_change(before: Answers, after: Answers, groups: Groups = None) -> Comparison:
    """Compares accuracy before and after on the same pictures, in pairs.

    Raises:
        BadRequest: the pictures are not the same.
    """
    if len(before) != len(after) or not torch.equal(before.labels.cpu(), after.labels.cpu()):
        raise BadRequest(
            f"{len(before)} pictures before and {len(after)} after do not have the same labels; "
            "ask both models about the same pictures in the same order"
        )
    return compare_rates(before.hits, after.hits, groups)


def drop(before: float, after: float) -> float:
    """Gives by how much accuracy on forgotten classes fell; negative where it rose."""
    if not (math.isfinite(before) and math.isfinite(after)):
        raise MeasurementFailed(f"accuracies {before} and {after} give no drop; measure both")
    return before - after


def h_mean(fallen: float, retained: float) -> float:
    """Gives H, the harmonic mean of the drop and the retained accuracy, in their common unit.

    Where nothing was forgotten (a drop of zero or below) or nothing retained, H is 0.

    Raises:
        MeasurementFailed: one of them is not finite.
        BadRequest: the retained accuracy is negative.
    """
    if not (math.isfinite(fallen) and math.isfinite(retained)):
        raise MeasurementFailed(f"a drop of {fallen} and accuracy of {retained} give no H")
    if retained < 0:
        raise BadRequest(f"the retained accuracy is {retained}; it cannot be negative")
    if fallen <= 0 or retained == 0:
        return 0.0
    return 2 * fallen * retained / (fallen + retained)


def with_margin(answers: Answers, *, scale: float, margin: float) -> Answers:
    """Takes CosFace's margin off the true class: ``s (cos - m)`` for it, ``s cos`` for the others.

    Args:
        answers: without the margin.
        scale: s of the head; the logits given are ``s cos``.
        margin: m, in units of the cosine.
    """
    if scale <= 0 or margin < 0:
        raise BadRequest(f"scale {scale} must be above zero and margin {margin} not below it")
    places = answers.labels.long()[:, None]
    taken = torch.full(places.shape, -scale * margin, dtype=torch.float64).to(places.device)
    return Answers(answers.logits.double().scatter_add(1, places, taken), answers.labels)


def margin_accuracy(
    answers: Answers, *, scale: float, margin: float, groups: Groups = None
) -> MarginAccuracy:
    """Estimates accuracy without and with the margin of a CosFace head."""
    strict = with_margin(answers, scale=scale, margin=margin)
    return MarginAccuracy(accuracy(answers, groups), accuracy(strict, groups))


def tunable_ratio(delta: Delta, parameters: int) -> float:
    """Gives the numbers that a delta holds, as a share of the network's parameters.

    Raises:
        BadRequest: the network is said to have no parameters.
    """
    if parameters <= 0:
        raise BadRequest(f"the network is said to have {parameters} parameters; count them")
    return sum(one.numel() for one in delta.tensors().values()) / parameters


def zero_group_ratio(delta: Delta, groups: Mapping[str, Sequence[str]]) -> float:
    """Gives the share of groups in which a delta changes nothing at all, exactly.

    Args:
        delta: what was changed.
        groups: by name, the parameter keys of a group, such as the weights of one block.

    Raises:
        BadRequest: there is no group, or a changed key is in none.
    """
    if not groups:
        raise BadRequest("there are no groups; name the parameter keys of each block")
    covered = {key for keys in groups.values() for key in keys}
    outside = [key for key in delta.keys if key not in covered]
    if outside:
        raise BadRequest(
            f"the delta changes {outside[0]} (of {len(outside)}), which is in no group; "
            "name groups that cover all that it changes"
        )
    changed = {key for key, patch in _patches(delta) if not _is_zero(patch)}
    return sum(changed.isdisjoint(keys) for keys in groups.values()) / len(groups)


def _patches(delta: Delta) -> list[tuple[str, Patch]]:
    return [*delta.patches.items(), *delta.ungated.items()]


def _is_zero(patch: Patch) -> bool:
    """Says whether a patch adds exactly nothing; for low rank, whether its product is zero."""
    match patch:
        case LowRankPatch():
            return _product_is_zero(patch.up, patch.down)
        case TextMapPatch():
            return _product_is_zero(patch.left, patch.right)
        case _:
            return not bool(patch.difference.any())


def _product_is_zero(left: Tensor, right: Tensor) -> bool:
    used = left.any(dim=0) & right.any(dim=1)
    if not bool(used.any()):
        return True
    return not bool((left[:, used].double() @ right[used].double()).any())
