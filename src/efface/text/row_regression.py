"""Rows of a request's prompts with where each should go, in batches that are never held together.

A row map is regressed on these: rows of erased wordings go to those of the wording without the
concept, kept rows stay, and a kept thing stays in the company of an erased one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.closed_form.kernel_regression import (
    RowRegression,
    RowSolution,
    farthest,
    median_distance,
)
from efface.concepts import ErasureRequest, names
from efface.errors import BadRequest
from efface.hosts.streams import TextStream
from efface.text.token_rules import TargetRule, mention, mentions, prompt_pairs

__all__ = ["PairedPrompt", "RegressedRows", "in_company", "paired_prompts", "regressed"]

BATCH = 32
"""Prompts, with their targets, that are embedded at a time."""
DIGITS = 1e6
"""Rows that are equal to six decimals of the largest value are one row."""
POOL = 4
"""Rows per center among which those farthest from one another are looked for."""


@dataclass(frozen=True)
class PairedPrompt:
    """A prompt whose rows from one position on should become rows of another prompt."""

    source: str
    target: str
    start: int
    """First position of the source that moves."""
    like: int
    """A position of the source, from which on rows go to those of the target from `place` on."""
    place: int
    """Rows before `like` go to the target's row before this one."""


def paired_prompts(
    stream: TextStream, request: ErasureRequest, *, target: TargetRule
) -> list[PairedPrompt]:
    """Pairs every wording of every erased concept with the prompt that takes its place.

    Raises:
        BadRequest: see `efface.text.token_rules.prompt_pairs`.
    """
    return [
        PairedPrompt(p.source, p.target, p.source_start, p.source_start, p.target_start)
        for erasure in request.erasures
        for p in prompt_pairs(stream, erasure, target)
    ]


def in_company(
    stream: TextStream, request: ErasureRequest, count: int
) -> tuple[list[PairedPrompt], list[str]]:
    """Writes kept prompts with an erased thing beside the kept one, and with another kept one.

    "a cat" becomes "a cat and a pistol" and "a pistol and a cat", which should act like "a cat",
    and "a cat and a dog", which should stay.

    Args:
        stream: what reads them.
        request: what goes and what stays; concepts that are no objects have no company.
        count: of kept prompts, for every name of an erased concept.

    Returns:
        The prompts to move, and those to keep.
    """
    places = [
        (text, name)
        for concept in request.keep
        if concept.kind == "object"
        for text, name in mentions(concept)
        if name is not None
    ]
    gone = [n for e in request.erasures if e.concept.kind == "object" for n in names(e.concept)]
    if not places or not count:
        return [], []
    # A stride that has no divisor in common with most numbers of prompts mixes the concepts.
    turning = cycle(places[(31 * place) % len(places)] for place in range(len(places)))
    moved = [
        _beside(stream, text, name, other, first=bool(place % 2))
        for other in gone
        for place, (text, name) in enumerate(islice(turning, count))
    ]
    others = [concept.name for concept in request.keep if concept.kind == "object"]
    kept = [
        _written(text, name, other, first=False)
        for place, (text, name) in enumerate(islice(turning, len(moved)))
        if (other := others[(7 * place) % len(others)]) != name
    ]
    return moved, list(dict.fromkeys(kept))


def _article(word: str) -> str:
    return "an" if word[:1].lower() in "aeiou" else "a"


def _written(text: str, name: str, other: str, *, first: bool) -> str:
    """Puts another thing after a name's last mention in a prompt, or before it."""
    match = mention(name, text)
    if match is None:
        raise BadRequest(f"the prompt '{text}' does not name '{name}'")
    own = match.group()
    both = f"{other} and {_article(own)} {own}" if first else f"{own} and {_article(other)} {other}"
    return text[: match.start()] + both + text[match.end() :]


def _beside(stream: TextStream, text: str, name: str, other: str, *, first: bool) -> PairedPrompt:
    """Pairs a prompt that has an erased thing beside a kept one with the prompt without it."""
    source = _written(text, name, other, first=first)
    if stream.pooled:
        return PairedPrompt(source, text, 0, 0, 0)
    begins, ends = stream.span(text, name)
    _, gone = stream.span(source, other)
    if first:
        kept, _ = stream.span(source, name)
        return PairedPrompt(source, text, gone, kept, begins)
    return PairedPrompt(source, text, gone, gone, ends)


@dataclass(frozen=True)
class RegressedRows:
    """What a regression is made of for one stream: prompts that move and prompts that stay."""

    stream: TextStream
    moved: Sequence[PairedPrompt]
    kept: Sequence[str]
    _seen: set[bytes] = field(default_factory=set)

    def batches(
        self, chosen: set[int] | None = None
    ) -> Iterator[tuple[Float[Tensor, "n dim"], Float[Tensor, "n dim"] | None]]:
        """Embeds prompts a few at a time; each different row comes once.

        Args:
            chosen: numbers of the prompts, those that move first; all when left out.

        Yields:
            Rows, the changes that are wanted of them; None: they stay.
        """
        self._seen.clear()
        numbers = range(len(self.moved) + len(self.kept))
        used = [n for n in numbers if chosen is None or n in chosen]
        moved = [self.moved[n] for n in used if n < len(self.moved)]
        kept = [self.kept[n - len(self.moved)] for n in used if n >= len(self.moved)]
        for start in range(0, len(moved), BATCH):
            some = moved[start : start + BATCH]
            texts = list(dict.fromkeys(t for pair in some for t in (pair.source, pair.target)))
            known = dict(zip(texts, self.stream.embedded(texts, afresh=True), strict=True))
            parts = [self._pair(pair, known) for pair in some]
            rows, targets = (torch.cat(both) for both in zip(*parts, strict=True))
            new = self._new(torch.cat([rows, targets], dim=1))
            yield rows[new], (targets - rows)[new]
        for start in range(0, len(kept), BATCH):
            texts = kept[start : start + BATCH]
            states = self.stream.embedded(texts, afresh=True)
            rows = torch.cat([s[: self._read(t)] for t, s in zip(texts, states, strict=True)])
            rows = rows[self._new(rows)]
            yield rows, None

    @cached_property
    def _digits(self) -> float:
        return DIGITS / float(self.stream.embedded([""], afresh=True).abs().max())

    def _read(self, text: str) -> int:
        return 1 if self.stream.pooled else self.stream.tokenised(text).read

    def _pair(
        self, pair: PairedPrompt, known: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "n dim"]]:
        source = known[pair.source][: self._read(pair.source)]
        target = known[pair.target][: self._read(pair.target)]
        if self.stream.pooled:
            return source, target
        positions = torch.arange(pair.start, len(source))
        places = (pair.place + positions - pair.like).clamp(min=pair.place - 1)
        end = self.stream.tokenised(pair.target).end
        places = torch.where(places < 0, end, places)
        there = places < len(target)
        return source[positions[there]], target[places[there]]

    def _new(self, rows: Float[Tensor, "n dim"]) -> Int[Tensor, " m"]:
        """Finds rows that did not come before."""
        grid = (rows * self._digits).round().to(torch.int64)
        new = []
        for place, row in enumerate(grid.numpy()):
            print_ = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            if print_ not in self._seen:
                self._seen.add(print_)
                new.append(place)
        return torch.tensor(new, dtype=torch.long)

    def sample(
        self, count: int, *, spread: bool, generator: torch.Generator
    ) -> Float[Tensor, "m dim"]:
        """Chooses rows as centers: half of those that move, half of those that stay.

        Args:
            count: how many; all rows where there are fewer.
            spread: take, of `POOL` times as many drawn at random, those farthest from one another.
            generator: of what is drawn.
        """
        size = count * POOL if spread else count
        halves = []
        for first, number in ((0, len(self.moved)), (len(self.moved), len(self.kept))):
            order = (first + torch.randperm(number, generator=generator)).tolist()
            # A prompt has many rows: as many prompts as rows at most are embedded.
            chosen = set(order[: max(1, size)])
            rows = torch.cat([r for r, _ in self.batches(chosen)] or [torch.zeros(0, 1)])
            picked = torch.randperm(len(rows), generator=generator)[: max(1, size // 2)]
            rows = rows[picked]
            if spread and len(rows):
                rows = rows[farthest(rows, count // 2)]
            halves.append(rows)
        return torch.cat([half for half in halves if len(half)])


def regressed(
    rows: RegressedRows,
    centers: Float[Tensor, "centers dim"],
    *,
    length_scale: float,
    keep_scale: float,
    ridge: float,
) -> RowSolution:
    """Regresses the map of one stream's rows.

    Args:
        rows: what moves and what stays.
        centers: from `RegressedRows.sample`.
        length_scale: as a multiple of the median distance of the centers.
        keep_scale: weight of the rows that stay, where one that moves has 1.
        ridge: the noise.

    Raises:
        BadRequest: all rows are the same, or the system has no stable solution.
    """
    sums = RowRegression(centers, length_scale * median_distance(centers))
    for some, changes in rows.batches():
        if changes is None:
            sums.hold(some)
        else:
            sums.move(some, changes)
    return sums.solved(ridge=ridge, keep_scale=keep_scale)
