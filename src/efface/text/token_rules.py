"""Which token rows of a prompt pair are moved where: the rules of the two released UCE codes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.closed_form.text_space import TokenPairs, joined
from efface.concepts import TEMPLATES, Concept, Erasure, names, wordings
from efface.errors import BadRequest
from efface.hosts.streams import TextStream

__all__ = [
    "PromptPair",
    "TargetRule",
    "TokenRule",
    "embedded_pairs",
    "erased_pairs",
    "erased_rows",
    "every_pair",
    "every_row",
    "kept_rows",
    "last_row",
    "mention",
    "mentions",
    "prompt_pairs",
    "replaced",
]

TokenRule: TypeAlias = Literal["legacy", "new"]
"""``legacy``: from the last concept token through end and padding; ``new``: that one token."""

TargetRule: TypeAlias = Literal["anchor", "prompt_without_concept"]
"""``anchor``: the anchor's prompt, or the empty one; ``prompt_without_concept``: the same wording
with the anchor, or nothing, in place of the concept, so that the words around it survive."""


@dataclass(frozen=True)
class PromptPair:
    """A prompt, the prompt it should act like, and from which position on."""

    source: str
    target: str
    source_start: int
    """Position of the concept's last token in the source."""
    target_start: int
    """Position that this token should act like.

    -1 is before the first token, where T5 has none: the end token stands in.
    """
    first: int
    """Position of the concept's first token in the source, where the rule looks for it."""


def prompt_pairs(embedder: TextStream, erasure: Erasure, rule: TargetRule) -> list[PromptPair]:
    """Pairs every wording of a concept with the prompt that takes its place.

    Raises:
        BadRequest: a wording has no tokens, equals its target, or lacks the concept's name where
            the rule replaces it.
    """
    found = [
        _pair(embedder, erasure, source, name, rule) for source, name in mentions(erasure.concept)
    ]
    for pair in found:
        if not embedder.tokenised(pair.source).content:
            raise BadRequest(f"'{pair.source}' has no tokens in this model; word the concept anew")
        if embedder.tokenised(pair.source).ids == embedder.tokenised(pair.target).ids:
            raise BadRequest(
                f"'{pair.source}' and its target '{pair.target}' are the same tokens, so nothing "
                "would be erased; choose another anchor"
            )
    return found


def mentions(concept: Concept) -> Iterator[tuple[str, str | None]]:
    """Lists wordings with the name used in each; None where no name of the concept occurs."""
    if not concept.prompts:
        known = {
            template.format(name): name
            for template in TEMPLATES[concept.kind]
            for name in names(concept)
        }
        yield from ((text, known[text]) for text in wordings(concept))
        return
    longest_first = sorted(names(concept), key=len, reverse=True)
    for text in concept.prompts:
        yield text, next((name for name in longest_first if mention(name, text)), None)


def mention(name: str, prompt: str) -> re.Match[str] | None:
    """Finds the last mention of a name as whole words, whatever its capitals."""
    found = re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", prompt, re.IGNORECASE)
    return max(found, key=lambda match: match.start(), default=None)


def _pair(
    embedder: TextStream, erasure: Erasure, source: str, name: str | None, rule: TargetRule
) -> PromptPair:
    anchor = "" if erasure.anchor is None else erasure.anchor.name
    if rule == "anchor":
        target = replaced(source, name, anchor) if anchor and name else anchor
        last = embedder.tokenised(source).last
        return PromptPair(source, target, last, embedder.tokenised(target).end - 1, last)
    if name is None:
        raise BadRequest(
            f"the prompt '{source}' does not name '{erasure.concept.name}', so it cannot be left "
            "out of it; add the word used there as a synonym, or choose the target rule 'anchor'"
        )
    first, last = embedder.span(source, name)
    width = len(embedder.tokenised(anchor).content)
    return PromptPair(source, replaced(source, name, anchor), last, first + width - 1, first)


def replaced(prompt: str, name: str, replacement: str) -> str:
    """Puts other words in the place of a name's last mention; without one, in the prompt's."""
    found = mention(name, prompt)
    if found is None:
        return replacement
    return " ".join((prompt[: found.start()] + replacement + prompt[found.end() :]).split())


def erased_rows(embedder: TextStream, pair: PromptPair, rule: TokenRule) -> TokenPairs:
    """Gives the rows to move and their targets; tails are cut to equal length."""
    source, target = _rows(embedder, pair.source), _rows(embedder, pair.target)
    if embedder.pooled:
        return _weighted(source, target)
    tail = min(len(source) - pair.source_start, len(target) - pair.target_start)
    steps = torch.arange(tail if rule == "legacy" else 1)
    places = _places(embedder, pair, pair.target_start + steps)
    return _weighted(source[pair.source_start + steps], target[places])


def _rows(embedder: TextStream, prompt: str) -> Float[Tensor, "n dim"]:
    """Gives the rows of a prompt that are read, which hidden padding is not."""
    return embedder.embedded([prompt])[0][: embedder.tokenised(prompt).read]


def _places(embedder: TextStream, pair: PromptPair, wanted: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Puts the target's end token where a place before its first token is wanted."""
    return torch.where(wanted == -1, embedder.tokenised(pair.target).end, wanted)


def every_row(embedder: TextStream, pair: PromptPair, rule: TargetRule) -> TokenPairs:
    """Gives all rows of the source prompt with their targets.

    With ``anchor`` they are aligned by position, begin to end; where padding is hidden, rows beyond
    a shorter target go to its last one. Otherwise the words before the concept keep themselves and
    the rest is aligned at the concept.
    """
    source, target = _rows(embedder, pair.source), _rows(embedder, pair.target)
    positions = torch.arange(len(source))
    if rule == "anchor" or embedder.pooled:
        return _weighted(source, target[positions.clamp(max=len(target) - 1)])
    shift = pair.target_start - pair.source_start
    moved = torch.where(positions >= pair.source_start, positions + shift, positions)
    moved = _places(embedder, pair, moved)
    inside = (moved >= 0) & (moved < len(target))
    return _weighted(source[inside], target[moved[inside]])


def _weighted(sources: Float[Tensor, "n dim"], targets: Float[Tensor, "n dim"]) -> TokenPairs:
    return TokenPairs(sources, targets, torch.ones(len(sources), dtype=torch.float64))


def kept_rows(
    embedder: TextStream,
    prompt: str,
    rule: TokenRule,
    states: Float[Tensor, "tokens dim"] | None = None,
) -> Float[Tensor, "n dim"]:
    """Picks the rows of a kept prompt out of its states: all, or its last content token."""
    if states is None:
        states = embedder.embedded([prompt])[0]
    tokens = embedder.tokenised(prompt)
    if rule == "legacy" or embedder.pooled:
        return states[: tokens.read]
    return states[tokens.last : tokens.last + 1]


def last_row(embedder: TextStream, prompt: str) -> Float[Tensor, "1 dim"]:
    """Gives the row of a prompt's last content token, or the pooled one."""
    return kept_rows(embedder, prompt, "new")


def erased_pairs(
    embedder: TextStream,
    erasures: Sequence[Erasure],
    *,
    tokens: TokenRule,
    target: TargetRule,
) -> TokenPairs:
    """Stacks the rows to move of all wordings of all concepts, equal ones merged."""
    pairs = embedded_pairs(embedder, erasures, target)
    return joined(erased_rows(embedder, pair, tokens) for pair in pairs)


def every_pair(
    embedder: TextStream, erasures: Sequence[Erasure], *, target: TargetRule
) -> TokenPairs:
    """Stacks all rows of all wordings of all concepts with their targets, equal ones merged."""
    pairs = embedded_pairs(embedder, erasures, target)
    return joined(every_row(embedder, pair, target) for pair in pairs)


def embedded_pairs(
    embedder: TextStream, erasures: Sequence[Erasure], target: TargetRule
) -> list[PromptPair]:
    """Pairs the prompts of all concepts and embeds them together: few passes, not one a pair.

    Raises:
        BadRequest: see `prompt_pairs`.
    """
    every = [pair for erasure in erasures for pair in prompt_pairs(embedder, erasure, target)]
    # Names that differ in capitals are one name for an encoder that reads them alike.
    told = {_read(embedder, pair): pair for pair in reversed(every)}
    pairs = [pair for pair in every if told[_read(embedder, pair)] is pair]
    embedder.embedded([text for pair in pairs for text in (pair.source, pair.target)])
    return pairs


def _read(embedder: TextStream, pair: PromptPair) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Tells pairs apart by what the encoder reads, capitals aside."""
    source, target = embedder.tokenised(pair.source), embedder.tokenised(pair.target)
    return pair.source.casefold(), source.ids, target.ids
