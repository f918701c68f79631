"""Words of prompts as places of their tokens, and attention maps of words rather than of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from efface.errors import BadRequest
from efface.hosts.streams import TextStream

__all__ = [
    "Positions",
    "Smoothing",
    "WordMaps",
    "smoothed",
    "smoothing_kernel",
    "subjects",
    "word_places",
]

Positions: TypeAlias = Literal["all", "words"]
"""Among which positions attention is shared out anew: ``all`` but the begin token and the last
position, as Attend-and-Excite does; or those of the prompt's ``words`` alone."""
Smoothing: TypeAlias = Literal["released", "gaussian", "none"]
"""``released``: the 3 x 3 kernel of Attend-and-Excite's code, whose deviation is the square root of
two times what it says; ``gaussian``: what it says; ``none``: maps as they are."""

_WORD = r"(?<!\w){}(?!\w)"


def word_places(stream: TextStream, prompt: str, word: str) -> tuple[int, ...]:
    """Gives the positions of the tokens of a word, or of several in a row, in a prompt.

    Raises:
        BadRequest: the prompt lacks the word, or has it more than once.
    """
    mentions = re.findall(_WORD.format(re.escape(word)), prompt, re.IGNORECASE) if word else []
    if not mentions:
        there = ", ".join(re.findall(r"\w+", prompt)) or "none"
        raise BadRequest(
            f"the prompt '{prompt}' has no word '{word}'; name one of its words: {there}"
        )
    if len(mentions) > 1:
        raise BadRequest(
            f"the prompt '{prompt}' says '{word}' {len(mentions)} times; name each thing by more "
            "words, such as 'red cat'"
        )
    first, last = stream.span(prompt, word)
    return tuple(range(first, last + 1))


def subjects(
    prompts: Sequence[str], words: Sequence[str], among: Sequence[str] = ()
) -> list[tuple[str, ...]]:
    """Tells which words of each prompt are guided.

    Args:
        prompts: of a run.
        words: what every prompt has.
        among: in place of them: what prompts have some of, and each at least one.

    Raises:
        BadRequest: a prompt lacks a word, or all of those among which it has some; a word is there
            twice; or none is given, or both are.
    """
    named = [*words, *among]
    if bool(words) == bool(among):
        raise BadRequest(
            "words and among are both given; take one"
            if named
            else "no word is named, so there is nothing to guide; name the things that must appear "
            "as words, such as cat and apple"
        )
    twice = sorted({word for word in named if named.count(word) > 1})
    if twice:
        raise BadRequest(f"the word '{twice[0]}' is named twice; name each word once")
    for prompt in prompts:
        missing = [word for word in named if not _has(prompt, word)]
        if missing == named if among else missing:
            lacks = f"none of the words {', '.join(named)}" if among else f"no word '{missing[0]}'"
            there = ", ".join(re.findall(r"\w+", prompt)) or "none"
            raise BadRequest(f"the prompt '{prompt}' has {lacks}; name one of its words: {there}")
    return [tuple(word for word in named if _has(prompt, word)) for prompt in prompts]


def _has(prompt: str, word: str) -> bool:
    return bool(word and re.search(_WORD.format(re.escape(word)), prompt, re.IGNORECASE))


@dataclass(frozen=True, eq=False)
class WordMaps:
    """Turns attention over tokens into one map per word: shared out anew, smoothed, averaged.

    Prompts of a batch may have different numbers of words; the places of missing ones are zero.
    """

    pieces: Float[Tensor, "n words tokens"]
    """The share of each token in each word's map: rows sum to 1, or to 0 where there is no word."""
    there: Bool[Tensor, "n words"]
    read: Bool[Tensor, "n tokens"]
    """Positions among which attention is shared out anew."""
    temperature: float = 100.0
    """What probabilities are multiplied by before they are shared out."""
    smoothing: Smoothing = "released"
    sigma: float = 0.5

    @classmethod
    def of(
        cls,
        stream: TextStream,
        prompts: Sequence[str],
        words: Sequence[Sequence[str]],
        *,
        positions: Positions = "all",
        temperature: float = 100.0,
        smoothing: Smoothing = "released",
        sigma: float = 0.5,
    ) -> WordMaps:
        """Finds the words of each prompt.

        Raises:
            BadRequest: a prompt lacks a word, has it more than once, or two are the same there.
        """
        tokens = [stream.tokenised(prompt) for prompt in prompts]
        most, length = max(map(len, words)), len(tokens[0].ids)
        pieces = torch.zeros(len(prompts), most, length, dtype=torch.float64)
        read = torch.zeros(len(prompts), length, dtype=torch.bool)
        for sample, (prompt, each) in enumerate(zip(prompts, words, strict=True)):
            taken: dict[int, str] = {}
            for number, word in enumerate(each):
                places = word_places(stream, prompt, word)
                if both := [taken[place] for place in places if place in taken]:
                    raise BadRequest(
                        f"'{both[0]}' and '{word}' are the same word of the prompt '{prompt}', in "
                        "whole or in part; name each thing by words of its own"
                    )
                taken |= dict.fromkeys(places, word)
                pieces[sample, number, list(places)] = 1 / len(places)
            end = length - 1 if positions == "all" else tokens[sample].end
            read[sample, tokens[sample].begin : end] = True
        return cls(pieces, pieces.sum(dim=2) > 0, read, temperature, smoothing, sigma)

    def __getitem__(self, samples: Tensor) -> WordMaps:
        """Selects samples."""
        chosen = samples.to(self.pieces.device)
        parts = (self.pieces[chosen], self.there[chosen], self.read[chosen])
        return WordMaps(*parts, self.temperature, self.smoothing, self.sigma)

    def __call__(
        self, attention: Float[Tensor, "n height width tokens"]
    ) -> Float[Tensor, "n words height width"]:
        """Gives the map of each word."""
        pieces, read = self.pieces.to(attention), self.read.to(attention.device)
        hidden = (self.temperature * attention).masked_fill(~read[:, None, None], -torch.inf)
        words = torch.einsum("nhwt,nmt->nmhw", hidden.softmax(dim=-1), pieces)
        return smoothed(words, self.smoothing, self.sigma)


def smoothed(
    maps: Float[Tensor, "n words height width"], smoothing: Smoothing, sigma: float = 0.5
) -> Float[Tensor, "n words height width"]:
    """Smooths maps by a kernel of 3 x 3; the picture is mirrored at its edge."""
    if smoothing == "none":
        return maps
    kernel = smoothing_kernel(smoothing, sigma).to(maps)
    padded = functional.pad(maps, (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None]).view_as(maps)


def smoothing_kernel(smoothing: Smoothing, sigma: float) -> Float[Tensor, "3 3"]:
    """Gives a Gaussian of 3 x 3 that sums to 1, in float64.

    The released code writes ``exp(-((x - mean) / (2 sigma))^2)``, a Gaussian of ``sqrt(2) sigma``.
    """
    width = sigma * (2**0.5 if smoothing == "released" else 1.0)
    line = torch.exp(-0.5 * (torch.arange(-1, 2, dtype=torch.float64) / width) ** 2)
    return torch.outer(line, line) / line.sum() ** 2
