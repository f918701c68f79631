"""Prompts for erasing and keeping on the bundled model; no suite evaluates with them."""

from __future__ import annotations

from dataclasses import replace

from efface.bundled.vocabulary import NOUNS, STYLES, TEMPLATES, canonical, prompt
from efface.concepts import Concept, Erasure, ErasureRequest, names

__all__ = [
    "EDIT_PLAIN",
    "EDIT_STYLED",
    "EVALUATION_PLAIN",
    "EVALUATION_STYLED",
    "erased_prompts",
    "keep_set",
    "plainly",
    "understand",
]

EVALUATION_STYLED: tuple[str, ...] = (TEMPLATES["trained"][0], TEMPLATES["trained"][4])
EVALUATION_PLAIN: tuple[str, ...] = (TEMPLATES["trained_without_style"][2],)
EDIT_STYLED: tuple[str, ...] = TEMPLATES["trained"][1:4]
EDIT_PLAIN: tuple[str, ...] = tuple(
    text for text in TEMPLATES["trained_without_style"] if text not in EVALUATION_PLAIN
)
_SOME_NOUNS = 3
"""A style is erased in the company of every third noun."""


def erased_prompts(name: str) -> tuple[str, ...]:
    """Prompts that mean a noun, with synonyms and in every style, or a style on some nouns."""
    if name in STYLES:
        style = STYLES[name].wording
        some = list(NOUNS)[::_SOME_NOUNS]
        return tuple(prompt(text, noun, style=style) for noun in some for text in EDIT_STYLED)
    written: list[str] = []
    for word in (name, *NOUNS[name].synonyms):
        written += [prompt(text, word) for text in EDIT_PLAIN]
        for look in STYLES.values():
            written += [prompt(text, word, style=look.wording) for text in EDIT_STYLED]
    return tuple(written)


def keep_set(request: ErasureRequest) -> tuple[Concept, ...]:
    """One kept concept for every noun and style the request does not erase.

    A kept noun never comes in an erased style, nor a kept style with an erased noun.
    """
    gone = {canonical(name) for erasure in request.erasures for name in names(erasure.concept)}
    nouns = [noun for noun in NOUNS if noun not in gone]
    styles = [style.wording for style in STYLES.values() if style.name not in gone]
    return tuple(_kept(noun, styles, shift) for shift, noun in enumerate(nouns))


def _kept(noun: str, styles: list[str], shift: int) -> Concept:
    """A noun plain and in every kept style; templates rotate, so that all of them occur."""
    written = [prompt(text, noun) for text in EDIT_PLAIN]
    for place, style in enumerate(styles):
        text = EDIT_STYLED[(place + shift) % len(EDIT_STYLED)]
        written.append(prompt(text, noun, style=style))
    return Concept(name=noun, prompts=tuple(written))


def understand(request: ErasureRequest) -> ErasureRequest:
    """See `efface.bundled.understood`."""
    erasures = tuple(
        Erasure(concept=_filled(erasure.concept), anchor=erasure.anchor)
        for erasure in request.erasures
    )
    filled = replace(request, erasures=erasures)
    return replace(filled, keep=filled.keep or keep_set(filled))


def plainly(request: ErasureRequest) -> ErasureRequest:
    """See `efface.bundled.plainly_understood`."""
    erasures = tuple(
        replace(erasure, concept=_plain(erasure.concept)) for erasure in request.erasures
    )
    filled = replace(request, erasures=erasures)
    if filled.keep:
        return filled
    styled = tuple(
        Concept(
            name=f"{erasure.concept.name} in every style",
            prompts=tuple(
                prompt(text, erasure.concept.name, style=style.wording)
                for style in STYLES.values()
                for text in EDIT_STYLED
            ),
        )
        for erasure in filled.erasures
    )
    return replace(filled, keep=(*keep_set(filled), *styled))


def _plain(concept: Concept) -> Concept:
    known = canonical(concept.name)
    if known not in NOUNS or concept.prompts:
        return concept
    written = tuple(prompt(text, known) for text in EDIT_PLAIN)
    return replace(concept, name=known, prompts=written)


def _filled(concept: Concept) -> Concept:
    known = canonical(concept.name)
    if known is None or concept.prompts:
        return concept
    if known in STYLES:
        return replace(concept, name=known, kind="style", prompts=erased_prompts(known))
    synonyms = NOUNS[known].synonyms
    return replace(concept, name=known, synonyms=synonyms, prompts=erased_prompts(known))
