"""The suite of emoji-scenes: that of the bundled model, and whether scenes are still composed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice, zip_longest

from efface.bundled import scene_prompts
from efface.bundled.scene_prompts import Wanted
from efface.bundled.suites import Size, emoji_suite
from efface.bundled.vocabulary import canonical
from efface.concepts import Concept, ErasureRequest
from efface.contracts import Sample, Suite

__all__ = ["VERSION", "scene_suite"]

VERSION = 1
_COUNTS: dict[str, int] = {
    "smoke": 6,
    "sweep": 0,
    "benchmark": 12,
    "short": 36,
    "implicit": 0,
    "standard": 72,
}
"""Pictures of compositions, shared by all of a request."""
_ASKED = 66
"""Prompts of each kind to pick from: every pair that training never showed, in both orders."""


def scene_suite(request: ErasureRequest, *, size: Size = "standard") -> Suite:
    """Measures an erasure on emoji-scenes, and whether kept things are still composed.

    All of `efface.bundled.suites.emoji_suite` but its compositions, and in that role two things in
    one picture, two or three of one, and one left or right of another, in turn: pairs that training
    never showed together, with nothing that is erased among them, in no style.

    Raises:
        BadRequest: a concept is not in the vocabulary, or the size is unknown.
    """
    suite = emoji_suite(request, size=size)
    single = tuple(sample for sample in suite.samples if sample.role != "composition")
    composed = tuple(islice(_composed(request), _COUNTS[size]))
    return replace(
        suite,
        name=f"scenes-{size}",
        version=VERSION,
        samples=(*single, *composed),
        judge="emoji-scenes",
    )


def _composed(request: ErasureRequest) -> Iterator[Sample]:
    """Endless samples of the three kinds in turn; none where everything is erased."""
    gone = {canonical(erasure.concept.name) for erasure in request.erasures}
    kinds = (scene_prompts.pairs, scene_prompts.counts, scene_prompts.positions)
    kept = [[each for each in kind(_ASKED) if not gone & {*each.nouns}] for kind in kinds]
    in_turn = [each for three in zip_longest(*kept) for each in three if each is not None]
    for number, each in enumerate(cycle(dict.fromkeys(in_turn))):
        yield _sample(each, number // len(in_turn))


def _sample(wanted: Wanted, seed: int) -> Sample:
    return Sample(wanted.prompt, seed, "composition", Concept(name=wanted.prompt))
