"""Pictures before and after that nobody judges: which are drawn, and the card that says so."""

from __future__ import annotations

import math
from collections.abc import Iterator

from efface.concepts import TEMPLATES, Concept, ErasureRequest
from efface.contracts import JudgeCard, Sample, Suite
from efface.evaluation.suites import GENERAL
from efface.metrics.estimates import UNKNOWN

__all__ = ["NOBODY", "look_suite"]

NOBODY = JudgeCard(
    name="nobody",
    version="1",
    threshold=math.nan,
    true_positive_rate=UNKNOWN,
    false_positive_rate=UNKNOWN,
    notes="No judge looked at the pictures, so nothing was counted.",
)
"""What an evaluation has for a card where no judge was asked."""
_ERASED, _KEPT, _STAYING = 3, 2, 4
"""Most erased concepts and kept ones, and pictures that must stay: enough to see a wreck."""


def look_suite(request: ErasureRequest, *, steps: int = 25, guidance: float = 7.5) -> Suite:
    """Draws a few pictures to look at: no metric, no judge, so that any model will do.

    At most three erased concepts (one alone with two seeds), two kept ones, and prompts about
    nothing erased until four pictures must stay. Seeds differ, so that noise tells pictures apart.
    """
    return Suite(
        name="look",
        version=1,
        samples=(*_erased(request), *_staying(request)),
        judge="",
        steps=steps,
        guidance=guidance,
    )


def _erased(request: ErasureRequest) -> Iterator[Sample]:
    concepts = [erasure.concept for erasure in request.erasures[:_ERASED]]
    for concept in concepts:
        for seed in range(2 if len(concepts) == 1 else 1):
            yield Sample(_prompt(concept), seed, "erased", concept=concept)


def _staying(request: ErasureRequest) -> Iterator[Sample]:
    kept = request.keep[:_KEPT]
    for seed, concept in enumerate(kept):
        yield Sample(_prompt(concept), seed, "kept", concept=concept)
    for seed, prompt in enumerate(GENERAL[: _STAYING - len(kept)], len(kept)):
        yield Sample(prompt, seed, "general")


def _prompt(concept: Concept) -> str:
    """Words one prompt: the first that was given, else the name in its kind's first sentence."""
    if concept.prompts:
        return concept.prompts[0]
    templates = TEMPLATES[concept.kind]
    return (templates[1:] or templates)[0].format(concept.name)
