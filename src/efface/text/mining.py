"""Real words near a concept: found in the vocabulary, put in its place, sorted by their rows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from efface.closed_form.text_space import TokenPairs, joined
from efface.concepts import Erasure, ErasureRequest, names
from efface.hosts.streams import TextStream
from efface.text.token_rules import (
    TargetRule,
    TokenRule,
    erased_rows,
    mention,
    prompt_pairs,
    replaced,
)

__all__ = ["Mining", "nearest_words"]


@dataclass(frozen=True, kw_only=True)
class Mining:
    """Which words are looked at, and which of their rows count."""

    near: tuple[float, float]
    """Cosines to the concept's rows of rows that are erased along."""
    beyond: tuple[float, float]
    """Cosines of rows that stay where they are."""
    count: int
    """Words a name."""
    tokens: TokenRule
    """Which rows of a prompt."""
    target: TargetRule
    """What a wording becomes."""

    def around(
        self, stream: TextStream, request: ErasureRequest
    ) -> tuple[TokenPairs, Float[Tensor, "m dim"]]:
        """Gives the rows near the concepts with their targets, and the rows beyond.

        Kept words are not mined.
        """
        kept = {
            word for one in request.keep for name in names(one) for word in name.lower().split()
        }
        near, beyond = [_nothing(stream.width)], [_nothing(stream.width).sources]
        for erasure in request.erasures:
            for rows, found in self._candidates(stream, erasure, kept):
                cosine = torch.cosine_similarity(found, rows.sources)
                is_near = (cosine >= self.near[0]) & (cosine <= self.near[1])
                is_beyond = (cosine >= self.beyond[0]) & (cosine < self.beyond[1])
                targets, heavy = rows.targets[is_near], rows.weights[is_near]
                near.append(TokenPairs(found[is_near], targets, heavy))
                beyond.append(found[is_beyond])
        some = any(len(block.sources) for block in near)
        return joined(near) if some else near[0], torch.cat(beyond)

    def _candidates(
        self, stream: TextStream, erasure: Erasure, kept: Collection[str]
    ) -> list[tuple[TokenPairs, Float[Tensor, "_ dim"]]]:
        """Lists rows of a wording, and those with another word in the name's place, as many."""
        listed = []
        pairs = prompt_pairs(stream, erasure, self.target)
        for name in names(erasure.concept):
            words = nearest_words(stream, name, self.count, without=kept)
            for pair in (pair for pair in pairs if mention(name, pair.source)):
                rows = erased_rows(stream, pair, self.tokens)
                for word in words:
                    found = _rows_with(stream, pair.source, name, word)[: len(rows.sources)]
                    own = (
                        part[: len(found)] for part in (rows.sources, rows.targets, rows.weights)
                    )
                    listed.append((TokenPairs(*own), found))
        return listed


def nearest_words(
    stream: TextStream, name: str, count: int, *, without: Collection[str]
) -> list[str]:
    """Finds the words of the tokenizer whose input embeddings are most like a name's last token.

    Args:
        stream: tokenizer and text encoder; of several encoders the first.
        name: what they should be near to.
        count: how many at most.
        without: words to leave out, in lower case, such as kept ones; those of the name are too.
    """
    table, words = stream.vocabulary()
    last = stream.tokenised(name).content[-1]
    likeness = torch.nn.functional.cosine_similarity(table, table[last][None])
    banned = {*without, *name.lower().split()}
    found: list[str] = []
    for index in likeness.argsort(descending=True).tolist():
        word = words.get(index)
        if word is not None and word.lower() not in banned:
            found.append(word)
        if len(found) == count:
            break
    return found


def _rows_with(stream: TextStream, text: str, name: str, word: str) -> Float[Tensor, "_ dim"]:
    """Embeds a wording with another word in the name's place, from that word to what is read."""
    other = replaced(text, name, word)
    rows = stream.embedded([other])[0]
    if stream.pooled:
        return rows
    return rows[stream.span(other, word)[1] : stream.tokenised(other).read]


def _nothing(width: int) -> TokenPairs:
    nothing = torch.zeros(0, width, dtype=torch.float64)
    return TokenPairs(nothing, nothing, torch.zeros(0, dtype=torch.float64))
