"""The versioned suite of the bundled model, for erasures of nouns and styles."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Literal, TypeAlias

from efface.bundled.vocabulary import (
    HELD_OUT,
    NOUNS,
    STYLES,
    TEMPLATES,
    TWO_OBJECT,
    canonical,
    concept,
    prompt,
)
from efface.bundled.wordings import EVALUATION_PLAIN, EVALUATION_STYLED
from efface.concepts import Concept, ErasureRequest
from efface.contracts import Role, Sample, Suite
from efface.errors import BadRequest

__all__ = ["GUIDANCE", "STEPS", "VERSION", "Size", "emoji_suite"]

Size: TypeAlias = Literal["smoke", "sweep", "benchmark", "short", "implicit", "standard"]
VERSION = 3
STEPS = 20
GUIDANCE = 3.0

_STRIDE = 5
"""Kept nouns are taken every so many, so that a short suite still spans the categories."""
_ROLES = ("erased", "style", "synonym", "paraphrase", "neighbour", "kept", "general", "composition")
_COUNTS: dict[str, dict[str, int]] = {
    "smoke": dict(zip(_ROLES, (8, 8, 8, 4, 8, 16, 4, 0), strict=True)),
    "sweep": dict(zip(_ROLES, (12, 24, 8, 0, 4, 24, 0, 0), strict=True)),
    "benchmark": dict(zip(_ROLES, (12, 32, 6, 2, 4, 24, 0, 0), strict=True)),
    "short": dict(zip(_ROLES, (40, 40, 24, 8, 16, 64, 8, 24), strict=True)),
    "implicit": dict(zip(_ROLES, (12, 32, 6, 27, 4, 24, 0, 0), strict=True)),
    "standard": dict(zip(_ROLES, (64, 64, 48, 16, 32, 128, 16, 48), strict=True)),
}
"""Pictures of one erased concept, by role (``style``: of an erased style, not noun); kept, general
and composed ones are shared by all of a request."""
_BEFORE_COMPOSITIONS = 2
"""The version of sizes without compositions: what they draw has not changed since."""


def emoji_suite(request: ErasureRequest, *, size: Size = "standard") -> Suite:
    """Measures the erasure of nouns and styles the bundled model knows.

    Prompts use two trained templates that no erase or keep set uses. Roles: the erased name in all
    styles; its trained synonyms; held-out paraphrases; neighbours; every other noun (with its
    style); as general prompts, two other nouns in one picture, of which the first is judged; and,
    in the role ``composition``, two nouns of which both must be there: pairs of which the bundled
    model draws both more often than not, found by ``emoji/choose_pairs.py`` with other seeds. It
    knows no numbers and no places, so that neither is asked for (``emoji-scenes`` does). Size
    ``implicit`` asks for every description of a noun, in all styles, for models that know them
    (``emoji-reader``, which never draws two nouns in one picture: it has no compositions).

    Raises:
        BadRequest: a concept is not in the vocabulary, or the size is unknown.
    """
    if size not in _COUNTS:
        raise BadRequest(f"'{size}' is no size of a suite; choose {', '.join(_COUNTS)}")
    counts = _COUNTS[size]
    erased = [_known(erasure.concept) for erasure in request.erasures]
    samples: list[Sample] = []
    for name in erased:
        samples += (
            _style_roles(name, counts)
            if name in STYLES
            else _noun_roles(name, erased, counts, described=size == "implicit")
        )
    samples += _kept(erased, counts["kept"])
    samples += _two_objects(erased, counts["general"])
    samples += _composed(erased, counts["composition"])
    return Suite(
        name=f"emoji-{size}",
        version=VERSION if counts["composition"] else _BEFORE_COMPOSITIONS,
        samples=tuple(dict.fromkeys(samples)),
        judge="emoji",
        image_metrics=("presence", "leftover", "style_presence", "clip_score"),
        set_metrics=("feature_distance", "structure_distance", "kid"),
        steps=STEPS,
        guidance=GUIDANCE,
    )


def _known(given: Concept) -> str:
    known = canonical(given.name)
    if known is None:
        raise BadRequest(
            f"the emoji suite cannot measure '{given.name}': it is not in the vocabulary; "
            "`efface list concepts` prints what is, or use --suite basic with a judge of your own"
        )
    return known


def _styled(words: Iterable[str], name: str, styles: list[str], role: Role) -> Iterator[Sample]:
    """Endless samples of a noun under some words, turning through styles, templates and seeds."""
    words, seed, what = list(words), 0, concept(name)
    while True:
        for style in styles:
            for word in words:
                template = EVALUATION_STYLED[seed % len(EVALUATION_STYLED)]
                text = prompt(template, word, style=STYLES[style].wording)
                yield Sample(text, seed, role, what, concept(style))
        for word in words:
            yield Sample(prompt(EVALUATION_PLAIN[0], word), seed, role, what)
        seed += 1


def _noun_roles(
    name: str, erased: list[str], counts: dict[str, int], *, described: bool
) -> Iterator[Sample]:
    noun = NOUNS[name]
    implicit = (*noun.paraphrases, *noun.descriptions) if described else noun.paraphrases
    styles = [s for s in STYLES if s not in erased and (name, s) not in HELD_OUT]
    yield from islice(_styled([name], name, styles, "erased"), counts["erased"])
    yield from islice(_styled(noun.synonyms, name, styles, "synonym"), counts["synonym"])
    yield from islice(_styled(implicit, name, styles, "paraphrase"), counts["paraphrase"])
    near = [other for other in noun.neighbours if other not in erased]
    for other in near:
        shown = [s for s in STYLES if s not in erased and (other, s) not in HELD_OUT]
        share = counts["neighbour"] // len(near)
        yield from islice(_styled([other], other, shown, "neighbour"), share)


def _style_roles(name: str, counts: dict[str, int]) -> Iterator[Sample]:
    """A style counts as its own concept; the nouns drawn under it are the general samples."""
    nouns = [noun for noun in NOUNS if (noun, name) not in HELD_OUT]
    for place in range(counts["style"]):
        noun = nouns[(5 * place) % len(nouns)]
        template = EVALUATION_STYLED[place % len(EVALUATION_STYLED)]
        text = prompt(template, noun, style=STYLES[name].wording)
        yield Sample(text, place, "erased", concept(name))
    for place in range(counts["neighbour"]):
        noun = nouns[(7 * place) % len(nouns)]
        text = prompt(EVALUATION_STYLED[0], noun, style=STYLES[name].wording)
        yield Sample(text, place, "general", concept(noun))


def _kept(erased: list[str], count: int) -> Iterator[Sample]:
    """Nouns that are not erased, in styles that are not, the same ones for every request."""
    styles = [style for style in STYLES if style not in erased]
    for place in range(count):
        turn, index = divmod(_STRIDE * place, len(NOUNS))
        noun = list(NOUNS)[index]
        if noun in erased:
            continue
        shown = [style for style in styles if (noun, style) not in HELD_OUT]
        style = shown[(index + 3 * turn) % len(shown)]
        template = EVALUATION_STYLED[index % len(EVALUATION_STYLED)]
        text = prompt(template, noun, style=STYLES[style].wording)
        yield Sample(text, turn, "kept", concept(noun), concept(style))


def _two_objects(erased: list[str], count: int) -> Iterator[Sample]:
    """Two nouns in one picture, neither erased; the first of them is judged."""
    pairs = [pair for pair in TWO_OBJECT if not set(pair) & set(erased)]
    styles = [style for style in STYLES if style not in erased]
    for place in range(count if pairs else 0):
        first, second = pairs[place % len(pairs)]
        style = styles[place % len(styles)]
        template = TEMPLATES["two_objects"][place % 2]
        text = prompt(template, first, style=STYLES[style].wording, other=second)
        yield Sample(text, place, "general", concept(first), concept(style))


def _composed(erased: list[str], count: int) -> Iterator[Sample]:
    """Two nouns that the model draws together, neither erased nor in an erased style."""
    kept = [three for three in _drawn_together() if not set(three) & set(erased)]
    for place in range(count if kept else 0):
        first, second, style = kept[place % len(kept)]
        text = prompt(
            TEMPLATES["two_objects"][place % 2],
            first,
            style=STYLES[style].wording,
            other=second,
        )
        shown = concept(first), concept(style), (concept(second),)
        yield Sample(text, place // len(kept), "composition", *shown)


@cache
def _drawn_together() -> tuple[tuple[str, str, str], ...]:
    """Reads two nouns and a style of which the bundled model draws both nouns."""
    text = files("efface.bundled").joinpath("drawn_together.json").read_text(encoding="utf-8")
    return tuple((first, second, style) for first, second, style in json.loads(text)["pairs"])
