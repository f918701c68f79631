"""Input embeddings of no token in a prompt: before it, after it, among its words, for a name."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from efface.errors import BadRequest
from efface.hosts.embedding import TokenisedPrompt

__all__ = ["Placement", "with_free_places"]

Placement: TypeAlias = Literal["prefix", "suffix", "insert", "replace"]
"""``prefix``: before the first token; ``suffix``: before the end token; ``insert``: among the
tokens at equal distances; ``replace``: in place of a name."""


def with_free_places(
    rows: Float[Tensor, "tokens dim"],
    free: Float[Tensor, "k dim"],
    tokens: TokenisedPrompt,
    placement: Placement,
    span: tuple[int, int],
) -> Float[Tensor, "tokens dim"]:
    """Puts free embeddings among those of a prompt's tokens, whose number stays.

    Padding makes room at the end, or fills up what a longer name leaves.

    Args:
        rows: embeddings of all positions of the prompt.
        free: what is put there, in order.
        tokens: where the prompt begins and ends.
        placement: where it goes.
        span: first and last position of the name that ``replace`` takes out.

    Raises:
        BadRequest: the prompt is too long for that.
    """
    first, last = span
    freed = last - first + 1 if placement == "replace" else 0
    if tokens.end + len(free) - freed >= len(rows):
        raise BadRequest(
            f"the prompt '{tokens.text}' with {len(free)} embeddings beside it is longer than the "
            f"{len(rows)} tokens that the text encoder reads; shorten it or lower attack_tokens"
        )
    if placement == "replace":
        made = torch.cat([rows[:first], free, rows[last + 1 :]])
    else:
        made = _among(rows, free, _places(tokens, len(free), placement))
    padding = rows[-1:].expand(max(0, len(rows) - len(made)), -1)
    return torch.cat([made, padding])[: len(rows)]


def _places(tokens: TokenisedPrompt, count: int, placement: Placement) -> list[int]:
    """Gives the position in the prompt before which each embedding goes."""
    if placement == "prefix":
        return [tokens.begin] * count
    if placement == "suffix":
        return [tokens.end] * count
    content = tokens.end - tokens.begin
    return [tokens.begin + (nth + 1) * content // (count + 1) for nth in range(count)]


def _among(rows: Tensor, free: Tensor, places: list[int]) -> Tensor:
    parts, done = [], 0
    for place, each in zip(places, free, strict=True):
        parts += [rows[done:place], each[None]]
        done = place
    return torch.cat([*parts, rows[done:]])
