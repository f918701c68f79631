"""What an evaluation does not show, in sentences for every report."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from efface.contracts import JudgeCard
from efface.evaluation.record import Evaluation
from efface.evaluation.samples import GOING
from efface.hosts.host import FIRST_FRAMES
from efface.metrics.estimates import is_known, zero_hits_note
from efface.reports import wording
from efface.reports.guides import guides
from efface.reports.model_words import words_for

__all__ = ["limits"]

_INTERVALS = (
    " Intervals cover 95 % and widen where seeds of one prompt agree; "
    "p-values are not corrected for the number of rows."
)


def limits(evaluation: Evaluation, tested: Collection[str] = ()) -> tuple[str, ...]:
    """Lists what this evaluation does not show."""
    return tuple(_limits(evaluation, tested))


def _unmeasured_errors(card: JudgeCard) -> str:
    errors = {
        "misses what is there": card.true_positive_rate,
        "sees what is not there": card.false_positive_rate,
    }
    return " or ".join(error for error, known in errors.items() if not is_known(known))


def _leftovers(evaluation: Evaluation) -> Iterator[str]:
    """Says what the judge, and the one that looks for leftovers, miss of them, by style."""
    for card in (evaluation.judge, evaluation.leftover_judge):
        if card is None or not card.leftovers_missed:
            continue
        rates = ", ".join(
            f"{style} {wording.number(rate.value, 'rate')} ({wording.hits(rate)})"
            for style, rate in card.leftovers_missed.items()
        )
        yield (
            f"What {card.name} misses where an outline or half of a thing is left, by style, on "
            f"pictures that were labelled by eye: {rates}."
        )
    if evaluation.leftover_judge is not None:
        wrong = evaluation.leftover_judge.false_positive_rate
        share = f"{wording.number(wrong.value, 'rate')} ({wording.hits(wrong)})"
        yield (
            f"{evaluation.leftover_judge.name} also sees something in {share} of labelled pictures "
            "in which the thing is gone."
        )


def _recogniser_limits(evaluation: Evaluation) -> Iterator[str]:
    for role in GOING:
        found = evaluation.find(evaluation.main_metric, role)
        note = zero_hits_note(found.after) if found and found.after else None
        if note:
            yield f"{wording.ROLES[role]}: {note}."
    probe = evaluation.find("probe", "erased")
    if probe is not None and probe.after is not None and probe.before is not None:
        yield (
            "A linear classifier that is trained on its features reads it in "
            f"{wording.number(probe.after.value, 'rate')} of its pictures, "
            f"{wording.number(probe.before.value, 'rate')} before: the nearer these are, the less "
            "of it is gone from the weights and the more is only not named."
        )
    yield (
        f"{len(evaluation.samples)} {words_for(evaluation).held_out} were looked at, whose names "
        f"are those of the data ({evaluation.judge.name}); what is wrong there is wrong here. "
        "Intervals cover 95 %; p-values are not corrected for the number of rows."
    )


def _drawn(evaluation: Evaluation) -> Iterator[str]:
    """Says where pictures are not what the weights alone give when they are drawn as usual."""
    if FIRST_FRAMES in evaluation.notes:
        yield f"{FIRST_FRAMES.capitalize()}."
    if guides(evaluation):
        yield (
            "Pictures after the erasure were drawn with guides of sampling, which are not in the "
            "weights: without them, or with other settings, numbers are others."
        )


def _limits(evaluation: Evaluation, tested: Collection[str]) -> Iterator[str]:
    if evaluation.outcome is not None and evaluation.outcome.name == "erased":
        draws = evaluation.model_kind == "generator"
        where = "other prompts, seeds or samplers" if draws else "other pictures"
        yield (
            "The concept is suppressed only as far as the tests listed here show. Its traces may "
            f"still be in the weights, and {where} may show it."
        )
    else:
        yield "Nothing here shows that the concept is gone from the model."
    every = words_for(evaluation).not_tested or [
        what for access, what in wording.NOT_TESTED.items() if access not in tested
    ]
    if every:
        yield "Not tested: " + "; ".join(every) + "."
    if evaluation.model_kind != "generator":
        yield from _recogniser_limits(evaluation)
        return
    yield from _drawn(evaluation)
    looked = evaluation.verdict != "not measured"
    if looked and (unmeasured := _unmeasured_errors(evaluation.judge)):
        yield f"Nobody has measured how often the judge {evaluation.judge.name} {unmeasured}."
    yield from _leftovers(evaluation)
    for role in GOING:
        found = evaluation.find(evaluation.main_metric, role)
        note = zero_hits_note(found.after) if found and found.after else None
        if note:
            yield f"{wording.ROLES[role]}: {note}."
    prompts = len({sample.prompt for sample in evaluation.samples})
    yield (
        f"{len(evaluation.samples)} pictures of {prompts} prompts were drawn per model with one "
        f"sampler ({evaluation.before.steps} steps, guidance {evaluation.before.guidance:g})."
        + (_INTERVALS if looked else "")
    )
