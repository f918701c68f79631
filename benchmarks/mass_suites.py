"""Pictures of erased and remaining nouns, by name, by synonym, in company and by description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice

from efface.bundled.suites import emoji_suite
from efface.bundled.vocabulary import HELD_OUT, NOUNS, STYLES, TEMPLATES, concept, prompt
from efface.bundled.wordings import EVALUATION_STYLED
from efface.concepts import ErasureRequest
from efface.contracts import Role, Sample, Suite

__all__ = ["described_suite", "suite", "wider_suite"]

PICTURES_A_SIDE = 128
"""Pictures of erased nouns, and as many of remaining ones, at every point."""
WIDER, FEWER = 64, 40
"""Pictures a side where more is asked, and of synonyms, kept partners and erased ones beside."""
COMPANY = TEMPLATES["two_objects"][1]
"""The template of two objects that is like no template of a keep set."""


def pictures_of(nouns: list[str], role: Role, first_seed: int, words: str = "") -> Iterator[Sample]:
    """Endless samples of some nouns, turning through nouns, then styles, templates and seeds.

    Args:
        nouns: what is to be seen.
        role: of the samples.
        first_seed: of the first round.
        words: the field of a noun that says by which words it is called; by default its name.
    """
    styles = {noun: [s for s in STYLES if (noun, s) not in HELD_OUT] for noun in nouns}
    called = {noun: getattr(NOUNS[noun], words) if words else (noun,) for noun in nouns}
    for turn, noun in enumerate(cycle(each for each in nouns if called[each])):
        round_ = turn // len(nouns)
        style = styles[noun][(round_ + turn) % len(styles[noun])]
        template = EVALUATION_STYLED[round_ % len(EVALUATION_STYLED)]
        word = called[noun][round_ % len(called[noun])]
        text = prompt(template, word, style=STYLES[style].wording)
        yield Sample(text, first_seed + round_, role, concept(noun), concept(style))


def in_company(gone: list[str], left: list[str], first_seed: int) -> Iterator[Sample]:
    """Endless samples of a kept and an erased noun in one picture, which come first in turn.

    The kept one is judged in a sample of role ``general``, the erased one in one of ``paraphrase``.
    """
    for turn, erased in enumerate(cycle(gone)):
        kept = left[(5 * turn) % len(left)]
        style = list(STYLES)[turn % len(STYLES)]
        first, other = (kept, erased) if turn % 2 else (erased, kept)
        text = prompt(COMPANY, first, style=STYLES[style].wording, other=other)
        seed = first_seed + turn // len(gone)
        yield Sample(text, seed, "general", concept(kept), concept(style))
        yield Sample(text, seed, "paraphrase", concept(erased))


def sides(request: ErasureRequest) -> tuple[list[str], list[str]]:
    """Lists the nouns that are erased, and those that are left."""
    gone = [erasure.concept.name for erasure in request.erasures]
    return gone, [noun for noun in NOUNS if noun not in gone]


def suite(request: ErasureRequest, first_seed: int, count: int = PICTURES_A_SIDE) -> Suite:
    """As many pictures of erased as of remaining nouns, each noun as often as the others."""
    gone, left = sides(request)
    samples = [
        *islice(pictures_of(gone, "erased", first_seed), count),
        *islice(pictures_of(left, "kept", first_seed), count),
    ]
    return _of(request, samples)


def wider_suite(request: ErasureRequest, first_seed: int) -> Suite:
    """The same, with erased nouns called by synonyms, and with two nouns in one picture."""
    gone, left = sides(request)
    more = [
        *islice(pictures_of(gone, "synonym", first_seed, "synonyms"), FEWER),
        *islice(in_company(gone, left, first_seed), 2 * FEWER),
    ]
    known = suite(request, first_seed, WIDER)
    return replace(known, samples=tuple(dict.fromkeys([*known.samples, *more])))


def described_suite(request: ErasureRequest, first_seed: int) -> Suite:
    """Erased nouns by name and by descriptions, for the model that knows these, and others."""
    gone, left = sides(request)
    samples = [
        *islice(pictures_of(gone, "erased", first_seed), FEWER),
        *islice(pictures_of(gone, "paraphrase", first_seed, "paraphrases"), FEWER),
        *islice(pictures_of(left, "kept", first_seed), FEWER),
    ]
    return _of(request, samples)


def _of(request: ErasureRequest, samples: list[Sample]) -> Suite:
    return replace(
        emoji_suite(request, size="smoke"),
        name="emoji-mass",
        samples=tuple(dict.fromkeys(samples)),
        image_metrics=("presence", "style_presence"),
        set_metrics=(),
    )
