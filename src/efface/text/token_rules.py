"""Which token rows of a prompt pair are moved where: the rules of the two released UCE codes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.closed_form.text_space import TokenPairs, joined
from efface.concepts import TEMPLATES, Concept, Erasure, ErasureRequest, names, wordings
from efface.errors import BadRequest
from efface.hosts.language import FramedPrompt
from efface.hosts.streams import TextStream

__all__ = [
    "PromptPair",
    "TargetRule",
    "TokenRule",
    "WordingRule",
    "aligned_rows",
    "anchor_name",
    "embedded_pairs",
    "erased_pairs",
    "erased_rows",
    "every_pair",
    "every_row",
    "kept_rows",
    "mention",
    "mentions",
    "prompt_pairs",
    "prompts_read",
    "replaced",
    "target_prompt",
    "worded_by",
]

TokenRule: TypeAlias = Literal["legacy", "new"]
"""``legacy``: from the last concept token through end and padding; ``new``: that one token."""

TargetRule: TypeAlias = Literal["anchor", "bare_anchor", "prompt_without_concept"]
"""``anchor``: the wording with the anchor in place of the concept, or the empty prompt;
``bare_anchor``: the anchor's name alone; ``prompt_without_concept``: the wording with the anchor,
or nothing, in place of the concept, so that the words around it survive."""

WordingRule: TypeAlias = Literal["all", "names"]
"""``all``: every prompt that means a concept; ``names``: its names alone, as published commands."""


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


def worded_by(request: ErasureRequest, rule: WordingRule) -> ErasureRequest:
    """Gives the request with the prompts that a rule takes of what is erased and kept."""
    if rule == "all":
        return request
    erasures = [replace(each, concept=_bare(each.concept)) for each in request.erasures]
    return replace(request, erasures=tuple(erasures), keep=tuple(map(_bare, request.keep)))


def _bare(concept: Concept) -> Concept:
    return replace(concept, prompts=names(concept))


def prompt_pairs(embedder: TextStream, erasure: Erasure, rule: TargetRule) -> list[PromptPair]:
    """Pairs every wording of a concept with the prompt that takes its place.

    Raises:
        BadRequest: a wording has no tokens, equals its target, or lacks the concept's name where
            the rule replaces it.
    """
    pairs = [
        _pair(embedder, erasure, source, name, rule) for source, name in mentions(erasure.concept)
    ]
    for pair in pairs:
        if not embedder.tokenised(pair.source).content:
            raise BadRequest(f"'{pair.source}' has no tokens in this model; word the concept anew")
        if embedder.tokenised(pair.source).ids == embedder.tokenised(pair.target).ids:
            raise BadRequest(
                f"'{pair.source}' and its target '{pair.target}' are the same tokens, so nothing "
                "would be erased; choose another anchor"
            )
    return pairs


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
    matches = re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", prompt, re.IGNORECASE)
    return max(matches, key=lambda match: match.start(), default=None)


def _pair(
    embedder: TextStream, erasure: Erasure, source: str, name: str | None, rule: TargetRule
) -> PromptPair:
    anchor = anchor_name(erasure)
    target = target_prompt(source, name, anchor, rule)
    if rule != "prompt_without_concept":
        last = embedder.tokenised(source).last
        return PromptPair(source, target, last, embedder.tokenised(target).end - 1, last)
    if name is None:
        raise BadRequest(
            f"the prompt '{source}' does not name '{erasure.concept.name}', so it cannot be left "
            "out of it; add the word used there as a synonym, or choose the target rule 'anchor'"
        )
    first, last = embedder.span(source, name)
    read = embedder.tokenised(target)
    if isinstance(read, FramedPrompt):
        # A word after a space is cut otherwise than by itself, so characters are counted.
        return PromptPair(source, target, last, read.reaching(_stop(source, name, anchor)), first)
    width = len(embedder.tokenised(anchor).content)
    return PromptPair(source, target, last, first + width - 1, first)


def _stop(source: str, name: str, anchor: str) -> int:
    """Finds the character after the anchor in a wording where it takes a name's place."""
    match = mention(name, source)
    before = "" if match is None else source[: match.start()]
    return len(" ".join((before + anchor).split()))


def target_prompt(source: str, name: str | None, anchor: str, rule: TargetRule) -> str:
    """Gives what takes a wording's place.

    Args:
        source: the wording.
        name: the name of the concept in it; None where none is.
        anchor: the anchor's name; empty without one.
        rule: how the two are joined.
    """
    if name is None or rule == "bare_anchor" or (rule == "anchor" and not anchor):
        return anchor
    return replaced(source, name, anchor)


def prompts_read(
    request: ErasureRequest, *, target: TargetRule, always: Sequence[str]
) -> frozenset[str]:
    """Lists what is encoded: wordings, what takes their place, and what is kept."""
    kept = [text for concept in request.keep for text in wordings(concept)]
    moved = [
        prompt
        for erasure in request.erasures
        for text, name in mentions(erasure.concept)
        for prompt in (text, target_prompt(text, name, anchor_name(erasure), target))
    ]
    return frozenset(["", *always, *kept, *moved])


def anchor_name(erasure: Erasure) -> str:
    """Names the anchor; empty without one."""
    return "" if erasure.anchor is None else erasure.anchor.name


def replaced(prompt: str, name: str, replacement: str) -> str:
    """Puts other words in the place of a name's last mention; without one, in the prompt's."""
    match = mention(name, prompt)
    if match is None:
        return replacement
    return " ".join((prompt[: match.start()] + replacement + prompt[match.end() :]).split())


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


def _places(
    embedder: TextStream, pair: PromptPair, positions: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Puts the target's end token in place of a position before its first token."""
    return torch.where(positions == -1, embedder.tokenised(pair.target).end, positions)


def every_row(embedder: TextStream, pair: PromptPair, rule: TargetRule) -> TokenPairs:
    """Gives all rows of the source prompt with their targets.

    With an anchor they are aligned by position, begin to end; where padding is hidden, rows beyond
    a shorter target go to its last one. With ``prompt_without_concept`` the words before the
    concept keep themselves and the rest is aligned at the concept.
    """
    source, target = _rows(embedder, pair.source), _rows(embedder, pair.target)
    positions = torch.arange(len(source))
    if rule != "prompt_without_concept" or embedder.pooled:
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


def aligned_rows(
    embedder: TextStream,
    text: str,
    erasures: Sequence[Erasure],
    *,
    tokens: TokenRule | None,
    target: TargetRule,
) -> tuple[TokenPairs, Float[Tensor, "n dim"]]:
    """Stacks rows with their targets, and beside each the row at its position in another text.

    Args:
        embedder: what turns prompts into rows.
        text: the other text; where it is shorter, its last row stands for all beyond.
        erasures: the concepts.
        tokens: which rows of a wording; None: all of them.
        target: what a wording becomes.
    """
    blocks, beside = [], []
    for pair in embedded_pairs(embedder, erasures, target):
        if tokens is None:
            rows, first = every_row(embedder, pair, target), 0
        else:
            rows = erased_rows(embedder, pair, tokens)
            first = 0 if embedder.pooled else pair.source_start
        others = _rows(embedder, text)
        places = (first + torch.arange(len(rows.sources))).clamp(max=len(others) - 1)
        blocks.append(rows)
        beside.append(others[places])
    return TokenPairs.stacked(blocks), torch.cat(beside)


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
