"""Two runs against each other: the same prompts and seeds, paired."""

from __future__ import annotations

from dataclasses import dataclass

from efface.contracts import Estimate, Role
from efface.errors import BadRequest
from efface.evaluation.record import Evaluation
from efface.evaluation.samples import ROLES
from efface.metrics.estimates import compare_rates, rate

__all__ = ["Contrast", "contrast"]


@dataclass(frozen=True)
class Contrast:
    """How often what is asked for is seen in one role, with one delta and with the other."""

    role: Role
    first: Estimate
    second: Estimate
    difference: Estimate
    """Second minus first, over pictures of the same prompt and seed."""
    p_value: float


def contrast(first: Evaluation, second: Evaluation) -> tuple[Contrast, ...]:
    """Compares the main rate of two evaluations in every role, over samples that both have.

    Raises:
        BadRequest: they are of other models or judges, one has no edited pictures, or no sample is
            in both.
    """
    _check(first, second)
    ones, others = _hits(first), _hits(second)
    found = []
    for role in ROLES:
        shared = [one for one in first.samples if one.role == role and one.id in others]
        shared = [one for one in shared if one.id in ones]
        if not shared:
            continue
        before = [ones[one.id] for one in shared]
        after = [others[one.id] for one in shared]
        prompts = [one.prompt for one in shared]
        paired = compare_rates(before, after, prompts)
        rates = rate(before, prompts), rate(after, prompts)
        found.append(Contrast(role, *rates, paired.difference, paired.p_value))
    if not found:
        raise BadRequest("the two runs share no prompt and seed; measure both with one suite")
    return tuple(found)


def _check(first: Evaluation, second: Evaluation) -> None:
    if first.after is None or second.after is None:
        raise BadRequest("only runs with a delta are compared; measure the edited model")
    if "not measured" in (first.verdict, second.verdict):
        raise BadRequest("no judge looked at one of the runs; measure both with one judge")
    if first.before.model != second.before.model:
        raise BadRequest("the two runs are of different models, so their pictures do not pair")
    if (first.judge.name, first.judge.version) != (second.judge.name, second.judge.version):
        raise BadRequest(
            f"the two runs were judged by {first.judge.name} and {second.judge.name}; measure both "
            "with one judge"
        )


def _hits(evaluation: Evaluation) -> dict[str, float]:
    """Gives by sample whether its picture shows what is asked for; unscored ones are left out."""
    values = evaluation.answers.get(f"{evaluation.main_metric} after", ())
    pairs = zip(evaluation.samples, values, strict=False)
    limit = evaluation.judge.threshold
    return {one.id: float(value >= limit) for one, value in pairs if value == value}
