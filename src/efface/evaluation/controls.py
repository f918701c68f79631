"""Does the judge see what is there, and only that? Checked in every run, on this run's pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efface.concepts import Concept
from efface.contracts import Estimate, Judge, Sample
from efface.evaluation.images import Source
from efface.evaluation.instruments import Instruments
from efface.evaluation.record import Control, Verdict
from efface.evaluation.samples import in_role
from efface.evaluation.scoring import Scorer
from efface.metrics.estimates import is_known, rate
from efface.metrics.presence import ask

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "LEAST_PRESENT",
    "MOST_UNRELATED",
    "Asked",
    "controls_for",
    "unjudged",
    "unrelated",
    "verdict_of",
]

LEAST_PRESENT = 0.5
"""The unedited model must show an erased concept in at least this share of its own pictures."""
MOST_UNRELATED = 0.1
"""The judge may see an erased concept in at most this share of unrelated pictures."""


@dataclass(frozen=True)
class Asked:
    """Who is asked, and under which name answers are kept."""

    judge: Judge
    instruments: Instruments


def controls_for(
    scorer: Scorer, asked: Asked, samples: Sequence[Sample], *, base: Source
) -> tuple[Control, ...]:
    """Runs both controls for every erased concept on pictures of the unedited model."""
    concepts = dict.fromkeys(one.concept for one in in_role(samples, "erased") if one.concept)
    found: list[Control] = []
    for concept in concepts:
        found.append(_positive(scorer, asked, concept, samples, base))
        found.append(_negative(scorer, asked, concept, samples, base))
    return tuple(found)


def verdict_of(
    failures: Sequence[str], controls: Sequence[Control]
) -> tuple[Verdict, tuple[str, ...]]:
    """Gives the verdict and its reasons: a failure is invalid, a failed control inconclusive."""
    if failures:
        return "invalid", tuple(dict.fromkeys(failures))
    failed = [control for control in controls if not control.passed]
    if not failed:
        return "valid", ()
    return "inconclusive", tuple(reason for control in failed for reason in _reasons(control))


def unjudged(controls: Sequence[Control]) -> tuple[str, ...]:
    """Gives the reasons of a verdict where no judge was asked, with those of failed controls."""
    failed = (control for control in controls if not control.passed)
    return (
        "no judge that knows the concept was given",
        *(reason for control in failed for reason in _reasons(control)),
    )


def unrelated(concept: Concept, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Picks pictures that should not show a concept: kept and general ones, else neighbours.

    For a style only pictures that ask for another style count, where there are such: a prompt
    that names no style may be drawn in any.
    """
    chosen = in_role(samples, "kept", "general") or in_role(samples, "neighbour")
    others = tuple(one for one in chosen if concept not in (one.concept, one.style))
    if concept.kind != "style":
        return others
    return tuple(one for one in others if _asks_for_style(one)) or others


def _asks_for_style(sample: Sample) -> bool:
    judged = sample.concept is not None and sample.concept.kind == "style"
    return judged or sample.style is not None


def _positive(
    scorer: Scorer, asked: Asked, concept: Concept, samples: Sequence[Sample], base: Source
) -> Control:
    shown = tuple(one for one in in_role(samples, "erased") if one.concept == concept)
    found = _seen(scorer, asked, concept, shown, base)
    known = asked.judge.card.false_positive_rate
    limit = known.high if is_known(known) else 0.0
    passed = found is not None and found.value >= LEAST_PRESENT and found.low > limit
    requirement = (
        f"the unedited model shows '{concept.name}' in at least {LEAST_PRESENT:.0%} of the same "
        "prompts and seeds"
    )
    if limit:
        requirement += f", with a lower bound above the judge's false positives ({limit:.1%})"
    return Control(
        name="positive",
        concept=concept.name,
        passed=passed,
        estimate=found,
        requirement=requirement,
    )


def _negative(
    scorer: Scorer, asked: Asked, concept: Concept, samples: Sequence[Sample], base: Source
) -> Control:
    others = unrelated(concept, samples)
    found = _seen(scorer, asked, concept, others, base)
    return Control(
        name="negative",
        concept=concept.name,
        passed=found is not None and found.value <= MOST_UNRELATED,
        estimate=found,
        requirement=(
            f"the judge sees '{concept.name}' in at most {MOST_UNRELATED:.0%} of the unedited "
            "model's unrelated pictures"
        ),
    )


def _seen(
    scorer: Scorer, asked: Asked, concept: Concept, samples: Sequence[Sample], base: Source
) -> Estimate | None:
    """Gives how often the judge sees the concept; None when nothing could be judged."""
    scores = _scores(scorer, asked, concept, samples, base)
    if not samples or any(math.isnan(score) for score in scores):
        return None
    hits = [float(score >= asked.judge.card.threshold) for score in scores]
    return rate(hits, [sample.prompt for sample in samples])


def _scores(
    scorer: Scorer, asked: Asked, concept: Concept, samples: Sequence[Sample], source: Source
) -> list[float]:
    measure = asked.instruments.presence_of(concept)

    def look(images: Tensor, batch: Sequence[Sample]) -> Tensor:
        return ask(asked.judge, images, [concept] * len(batch))

    scorer.fill(measure, look, source, samples)
    return scorer.values(measure, source, samples)


def _reasons(control: Control) -> tuple[str, ...]:
    if control.details:
        return tuple(f"{control.name} control failed: {detail}" for detail in control.details)
    if control.estimate is None or control.name == "model":
        return (
            f"{control.name} control: there was no picture to check that {control.requirement}",
        )
    seen = f"{control.estimate.hits} of {control.estimate.count}"
    return (f"{control.name} control failed with {seen}: needed that {control.requirement}",)
