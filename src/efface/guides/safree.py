"""Projects what a prompt says of concepts out of its rows, before sampling (after SAFREE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from efface.contracts import Guide, Paper
from efface.errors import BadRequest
from efface.guiding.course import Course
from efface.hosts.conditions import Conditions

if TYPE_CHECKING:
    from efface.guiding.course import GuidedRun

__all__ = ["PromptProjection", "basis", "outside"]

RANK = 1e-2
"""Directions that are shorter than this share of the longest span nothing."""


@dataclass(frozen=True, kw_only=True)
class PromptProjection(Guide):
    """Finds the words of a prompt that lead to concepts, and projects their rows out of these.

    A prompt is encoded anew without each of its words. A word leads to the concepts where, without
    it, the end row is further from the concepts' space than without the others, by more than
    ``sensitivity``. With C the projection onto that space and I that onto what the prompt says
    without these words, rows r become ``I (1 - C) r``. Prompts without such a word stay.

    Costs no evaluation but one per picture, to see whether it does anything; and one pass of the
    text encoder per word. It works without classifier-free guidance.

    Reconstructed from memory of the paper, in a simple form of ours:
        Words, where the paper takes tokens. The space of the concepts is of their texts' rows, from
        the first word to the end row. Rows from the end row on, which repeat the whole prompt, are
        projected too: words alone change hardly anything on the bundled model. A pooled row becomes
        that of the prompt without the words. ``sensitivity`` is our number. What the paper does
        beside this is left out: it chooses for how many steps the projection holds, and filters the
        network's features.
    """

    name: ClassVar[str] = "safree"
    paper: ClassVar[Paper] = Paper(
        "SAFREE: Training-Free and Adaptive Guard for Safe Text-to-Image And Video Generation",
        "2410.12761",
        2024,
    )
    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl"})
    steers_by: ClassVar[tuple[str, ...]] = ("concepts",)

    concepts: tuple[str, ...] = ()
    """What to take out, each in words of its own; their texts span one space."""
    sensitivity: float = 0.2
    """A word is taken for one that leads to the concepts where a prompt without it is further from
    them than without the others, by this share."""
    strength: float = 1.0
    """How much of the way rows are moved; 0: off."""

    def __post_init__(self) -> None:
        if self.sensitivity < 0:
            raise BadRequest(f"sensitivity is {self.sensitivity}; give a share, 0 or more")
        if not 0 <= self.strength <= 1:
            raise BadRequest(f"strength is {self.strength}; give 0, which is off, to 1")

    def begin(self, run: GuidedRun) -> Course | None:
        """Moves the rows of prompts; it is off at strength 0, and where no word is found."""
        if not self.strength:
            return None
        space = basis(torch.cat([_rows(run, concept) for concept in self.concepts]))
        known = {prompt: self._moved(run, prompt, space) for prompt in dict.fromkeys(run.prompts)}
        if all(found is None for found in known.values()):
            return None
        places = range(len(run.prompts))
        found = [known[prompt] for prompt in run.prompts]
        parts = [
            run.conditions[[n]] if one is None else one
            for n, one in zip(places, found, strict=True)
        ]
        return _Projected(Conditions.joined(parts), torch.tensor([one is None for one in found]))

    def _moved(self, run: GuidedRun, prompt: str, space: Tensor) -> Conditions | None:
        """Gives what is read of a prompt instead; None where no word leads to the concepts."""
        words = prompt.split()
        found = self._leading(run, words, space)
        if not found:
            return None
        whole, kept = (
            run.denoiser.conditions([prompt]),
            run.denoiser.host.encode(
                [" ".join(word for place, word in enumerate(words) if place not in found)]
            ),
        )
        rows = whole.rows[0].cpu().double()
        read = _token_places(run, words, found)
        changed = outside(rows[read], space)
        inside = basis(kept.rows[0].cpu().double())
        changed = changed @ inside.T @ inside
        rows[read] += self.strength * (changed - rows[read])
        return Conditions(rows[None].to(whole.rows), kept.pooled)

    def _leading(self, run: GuidedRun, words: Sequence[str], space: Tensor) -> list[int]:
        """Lists the words that lead to the concepts, by their places."""
        without = [" ".join([*words[:place], *words[place + 1 :]]) for place in range(len(words))]
        left = outside(torch.stack([_end(run, text) for text in without]), space).norm(dim=1)
        if len(words) == 1:
            others = outside(_end(run, words[0])[None], space).norm(dim=1)
        else:
            others = (left.sum() - left) / (len(words) - 1)
        leads = left > (1 + self.sensitivity) * others
        return [place for place, found in enumerate(leads.tolist()) if found]


class _Projected(Course):
    alters_prompt = True

    def __init__(self, conditions: Conditions, idle: Bool[Tensor, " n"]) -> None:
        self.conditions, self.idle = conditions, idle


def basis(rows: Float[Tensor, "n dim"]) -> Float[Tensor, "rank dim"]:
    """Gives an orthonormal basis of the space that rows span."""
    _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
    spanning: Tensor = directions[sizes > RANK * sizes[0]]
    return spanning


def outside(
    rows: Float[Tensor, "n dim"], space: Float[Tensor, "rank dim"]
) -> Float[Tensor, "n dim"]:
    """Gives the part of rows that is orthogonal to a space."""
    return rows - rows @ space.T @ space


def _encoded(run: GuidedRun, text: str) -> Float[Tensor, "tokens dim"]:
    return run.denoiser.host.encode([text]).rows[0].cpu().double()


def _rows(run: GuidedRun, text: str) -> Float[Tensor, "n dim"]:
    """Gives a text's rows from its first word to the end row."""
    tokens = run.denoiser.text.tokenised(text)
    return _encoded(run, text)[tokens.begin : tokens.end + 1]


def _end(run: GuidedRun, text: str) -> Float[Tensor, " dim"]:
    return _encoded(run, text)[run.denoiser.text.tokenised(text).end]


def _token_places(run: GuidedRun, words: Sequence[str], chosen: Sequence[int]) -> list[int]:
    """Lists the places of words' tokens, and those from the end token on."""
    text = run.denoiser.text
    ends = [text.tokenised(" ".join(words[:count])).end for count in range(len(words) + 1)]
    places = [place for word in chosen for place in range(ends[word], ends[word + 1])]
    whole = text.tokenised(" ".join(words))
    return [*places, *range(whole.end, len(whole.ids))]
