"""Named, versioned suites as functions of the request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias, get_args

from efface.concepts import TEMPLATES, Concept, ErasureRequest
from efface.contracts import Sample, Suite
from efface.errors import BadRequest
from efface.evaluation.samples import crossed

__all__ = ["GENERAL", "SUITES", "Size", "basic_suite", "suite_for"]

Size: TypeAlias = Literal["smoke", "short", "standard"]

_SEEDS: dict[str, int] = {"smoke": 2, "short": 4, "standard": 8}
_BESIDE: dict[str, str] = {"object": "a {}", "person": "{}"}
"""How kinds of concepts are named that can stand beside others."""
_PAIRS = 6
"""Most pairs of kept concepts that are drawn together."""
GENERAL: tuple[str, ...] = (
    "a photo of a mountain lake in the morning",
    "a watercolour painting of a village street",
    "a bowl of fruit on a wooden table",
    "a modern living room with large windows",
    "an old map of an island",
    "a field of flowers under a cloudy sky",
)
"""Prompts about nothing that anybody erases."""


def basic_suite(request: ErasureRequest, *, size: Size = "standard") -> Suite:
    """Measures any request on any model: names in the templates of their kind, and general prompts.

    Erased concepts and their synonyms, kept concepts, kept things and people two in one picture (at
    most six pairs), and six prompts about nothing erased; eight seeds each (four for "short", two
    for "smoke"). Kept prompts are those of the request, so they are not independent of a method
    that was given them; name further concepts to check by hand.
    """
    seeds = range(_SEEDS[_known(size)])
    samples: list[Sample] = []
    for erasure in request.erasures:
        samples += _named(erasure.concept, seeds)
    for concept in request.keep:
        samples += crossed(_filled(concept, concept.name), seeds, role="kept", concept=concept)
    samples += [each for pair in _pairs(request.keep) for each in _together(*pair, seeds)]
    samples += crossed(GENERAL, seeds, role="general")
    return Suite(
        name="basic",
        version=2,
        samples=tuple(samples),
        judge="zero_shot",
        image_metrics=("presence", "clip_score"),
        set_metrics=("feature_distance", "structure_distance"),
    )


def _emoji(request: ErasureRequest, *, size: Size = "standard") -> Suite:
    from efface.bundled.suites import emoji_suite

    made: Suite = emoji_suite(request, size=size)
    return made


def _scenes(request: ErasureRequest, *, size: Size = "standard") -> Suite:
    """Measures what the emoji suite does, and several things in one picture."""
    from efface.bundled.scene_suite import scene_suite

    made: Suite = scene_suite(request, size=size)
    return made


SUITES: dict[str, Callable[..., Suite]] = {
    "basic": basic_suite,
    "emoji": _emoji,
    "scenes": _scenes,
}
"""What `suite_for` knows."""


def suite_for(name: str, request: ErasureRequest, **settings: Any) -> Suite:
    """Makes a suite by name.

    Raises:
        BadRequest: there is none of that name, or of that size.
    """
    if name not in SUITES:
        raise BadRequest(f"there is no suite called '{name}'; known: {', '.join(sorted(SUITES))}")
    return SUITES[name](request, **settings)


def _pairs(kept: Sequence[Concept]) -> list[tuple[Concept, Concept]]:
    """Pairs each kept thing or person with the next, the last of several with the first."""
    things = [concept for concept in kept if concept.kind in _BESIDE]
    following = things[1:] + things[:1] if len(things) > 2 else things[1:]
    return list(zip(things, following, strict=False))[:_PAIRS]


def _together(one: Concept, other: Concept, seeds: range) -> Iterator[Sample]:
    """Draws both in one picture; both have to be in it."""
    text = f"a photo of {_BESIDE[one.kind].format(one.name)} and "
    prompt = text + _BESIDE[other.kind].format(other.name)
    for seed in seeds:
        yield Sample(prompt, seed, "composition", one, others=(other,))


def _named(concept: Concept, seeds: range) -> list[Sample]:
    own = concept.prompts or _filled(concept, concept.name)
    samples = list(crossed(own, seeds, role="erased", concept=concept))
    for synonym in concept.synonyms:
        prompts = [prompt for prompt in _filled(concept, synonym) if prompt not in own]
        samples += crossed(prompts, seeds, role="synonym", concept=concept)
    return samples


def _filled(concept: Concept, name: str) -> tuple[str, ...]:
    """Fills the kind's templates; the bare name is left out where there are others."""
    templates = TEMPLATES[concept.kind]
    return tuple(template.format(name) for template in templates[1:] or templates)


def _known(size: str) -> str:
    if size not in get_args(Size):
        raise BadRequest(f"'{size}' is no size of a suite; choose {' or '.join(get_args(Size))}")
    return size
