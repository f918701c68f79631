"""What a denoiser reads of a prompt: rows of one or several text encoders, or one pooled row."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from efface.errors import BadModel
from efface.hosts.conditions import PLAIN, Encoding
from efface.hosts.embedding import Embedder, TokenisedPrompt

__all__ = [
    "Emptied",
    "Normed",
    "Padded",
    "Pooled",
    "SideBySide",
    "TextStream",
    "Unhidden",
    "Weighted",
]


@runtime_checkable
class TextStream(Protocol):
    """Prompts as rows, with the places of their tokens; `Embedder` is one."""

    pooled: bool
    """Whether a prompt is one row, of no token in particular."""

    @property
    def width(self) -> int:
        """The number of values in a row."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths of the parts of a row that are of different encoders."""

    def vocabulary(self) -> tuple[Float[Tensor, "n dim"], dict[int, str]]:
        """Gives the input embeddings and the plain words of the encoder that tells of tokens."""

    def tokenised(self, prompt: str) -> TokenisedPrompt:
        """Tells where a prompt's tokens are."""

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Gives the rows of prompts in float64 on the CPU; afresh, nothing is remembered."""

    def encoded(
        self, prompts: Sequence[str], encoding: Encoding = PLAIN
    ) -> Float[Tensor, "batch tokens dim"]:
        """Runs the encoders on prompts and gives rows where they are; see `Embedder.encoded`."""

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells all that decides the rows of prompts, in values that JSON holds."""

    def span(self, prompt: str, phrase: str) -> tuple[int, int]:
        """Finds the first and last position of a phrase's tokens in a prompt."""


class SideBySide:
    """Rows of two CLIP encoders joined token by token, as in Stable Diffusion XL and 3.

    Their tokenizers cut text alike and differ in what they pad with.
    """

    pooled = False

    def __init__(self, first: Embedder, second: Embedder) -> None:
        self._first, self._second = first, second
        self.vocabulary = first.vocabulary

    @property
    def width(self) -> int:
        """The widths of both."""
        return sum(self.blocks)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Both encoders."""
        return self._first.width, self._second.width

    def tokenised(self, prompt: str) -> TokenisedPrompt:
        """Tokens of the first encoder; the second has its own at the same places.

        Raises:
            BadModel: the two tokenizers cut the prompt differently.
        """
        mine, theirs = self._first.tokenised(prompt), self._second.tokenised(prompt)
        if mine.end != theirs.end or len(mine.ids) != len(theirs.ids):
            raise BadModel(
                f"the two tokenizers cut '{prompt}' into {mine.end - 1} and {theirs.end - 1} "
                "tokens; their rows cannot be joined"
            )
        return mine

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Joins the rows of both encoders."""
        both = (self._first, self._second)
        return torch.cat([one.embedded(prompts, afresh=afresh) for one in both], dim=-1)

    def encoded(
        self, prompts: Sequence[str], encoding: Encoding = PLAIN
    ) -> Float[Tensor, "batch tokens dim"]:
        """Joins what both encoders give now."""
        both = (self._first, self._second)
        return torch.cat([one.encoded(prompts, encoding) for one in both], dim=-1)

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells both encoders."""
        return ["side by side", self._first.identity(prompts), self._second.identity(prompts)]

    def span(self, prompt: str, phrase: str) -> tuple[int, int]:
        """Finds a phrase as the first encoder does."""
        return self._first.span(prompt, phrase)


class _Over(ABC):
    """Rows made of another stream's, with its tokens where it has them."""

    pooled = False

    def __init__(self, inner: TextStream) -> None:
        self.inner = inner
        self.span, self.vocabulary = inner.span, inner.vocabulary

    @property
    def width(self) -> int:
        """The inner stream's width."""
        return self.inner.width

    @property
    def blocks(self) -> tuple[int, ...]:
        """The inner stream's blocks."""
        return self.inner.blocks

    def tokenised(self, prompt: str) -> TokenisedPrompt:
        """Tells where the inner stream's tokens are."""
        return self.inner.tokenised(prompt)

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Makes rows of the inner stream's, in float64."""
        return self.made(self.inner.embedded(prompts, afresh=afresh), prompts)

    def encoded(
        self, prompts: Sequence[str], encoding: Encoding = PLAIN
    ) -> Float[Tensor, "batch tokens dim"]:
        """Makes rows of what the inner stream gives now."""
        before = max((len(rows) for rows in encoding.prefix.values()), default=0)
        return self.made(self.inner.encoded(prompts, encoding), prompts, before)

    @abstractmethod
    def made(self, rows: Tensor, prompts: Sequence[str], before: int = 0) -> Tensor:
        """Makes rows of the inner stream's, which a prefix of so many tokens may precede."""


class Padded(_Over):
    """Rows of a narrower stream filled up with zeros, as Stable Diffusion 3 joins CLIP to T5."""

    def __init__(self, inner: TextStream, width: int) -> None:
        super().__init__(inner)
        self._width = width

    @property
    def width(self) -> int:
        """What rows are filled up to."""
        return self._width

    @property
    def blocks(self) -> tuple[int, ...]:
        """The inner stream's blocks, then the zeros."""
        zeros = self.width - self.inner.width
        return (*self.inner.blocks, zeros) if zeros else self.inner.blocks

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells the inner stream and the width."""
        return ["padded", self.width, self.inner.identity(prompts)]

    def made(self, rows: Tensor, _prompts: Sequence[str], _before: int = 0) -> Tensor:
        """Fills rows up."""
        return functional.pad(rows, (0, self.width - rows.shape[-1]))


class Emptied(_Over):
    """Rows of an encoder with zeros in place of hidden padding, as AuraFlow reads T5."""

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells the inner stream."""
        return ["emptied", self.inner.identity(prompts)]

    def made(self, rows: Tensor, prompts: Sequence[str], before: int = 0) -> Tensor:
        """Empties the padding; a prefix is read, too."""
        ends = torch.tensor([self.tokenised(prompt).read + before for prompt in prompts])
        read = torch.arange(rows.shape[1]) < ends[:, None]
        return rows * read[:, :, None].to(rows)


class Unhidden(_Over):
    """Rows of an encoder that does not see padding, all of which the denoiser reads (Chroma)."""

    def tokenised(self, prompt: str) -> TokenisedPrompt:
        """Tells where tokens are; rows of padding are read."""
        return replace(self.inner.tokenised(prompt), masked=False)

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells the inner stream."""
        return ["unhidden", self.inner.identity(prompts)]

    def made(self, rows: Tensor, _prompts: Sequence[str], _before: int = 0) -> Tensor:
        """Leaves rows as they are."""
        return rows


class Normed(_Over):
    """Rows of a stream past a norm of the denoiser's own: root mean squares, then a weight each.

    Args:
        inner: what the norm reads.
        weight: of the norm.
        epsilon: added to mean squares.

    Raises:
        BadModel: the norm reads another width than the stream gives.
    """

    def __init__(self, inner: TextStream, weight: Float[Tensor, " dim"], epsilon: float) -> None:
        if len(weight) != inner.width:
            raise BadModel(
                f"the norm of text reads {len(weight)} values and the text encoder gives "
                f"{inner.width}; encoder and denoiser are of different models"
            )
        super().__init__(inner)
        self._epsilon, self._weight = epsilon, weight.detach().to("cpu", torch.float64)

    @property
    def blocks(self) -> tuple[int, ...]:
        """One: parts of a row pass the norm together."""
        return (self.width,)

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells the inner stream and the norm."""
        values = self._weight.contiguous().numpy().tobytes()
        digest = hashlib.sha256(values).hexdigest()
        return ["normed", digest, self._epsilon, self.inner.identity(prompts)]

    def made(self, rows: Tensor, _prompts: Sequence[str], _before: int = 0) -> Tensor:
        """Norms rows; those of zeros stay."""
        size = (rows.square().mean(-1, keepdim=True) + self._epsilon).sqrt()
        return rows / size * self._weight.to(rows)


class Weighted(_Over):
    """Rows of a stream times a number: ``P c = t`` asks the same of rows of any length.

    The number decides how much the rows count beside those of another stream.
    """

    def __init__(self, inner: TextStream, factor: float) -> None:
        super().__init__(inner)
        self.factor = factor

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells the inner stream and the factor."""
        return ["weighted", self.factor.hex(), self.inner.identity(prompts)]

    def made(self, rows: Tensor, _prompts: Sequence[str], _before: int = 0) -> Tensor:
        """Scales rows."""
        return rows * self.factor


class Pooled:
    """One row per prompt: the pooled outputs of CLIP encoders, joined.

    Args:
        model: the pipeline.
        suffixes: of the encoders, in the order in which the denoiser reads them.
    """

    pooled = True

    def __init__(self, model: Any, *suffixes: str) -> None:
        self._embedders = [Embedder(model, suffix=suffix) for suffix in suffixes]
        self._rows: dict[Any, Tensor] = getattr(model, "embedded_prompts", {})
        self._place = ("pooled", *suffixes)
        self.vocabulary = self._embedders[0].vocabulary

    @property
    def width(self) -> int:
        """The widths of all pooled outputs."""
        return int(self.embedded([""]).shape[-1])

    @property
    def blocks(self) -> tuple[int, ...]:
        """The width of each encoder's pooled output."""
        return tuple(part.shape[-1] for part in self._parts([""]))

    def tokenised(self, prompt: str) -> TokenisedPrompt:
        """Tokens of the first encoder."""
        return self._embedders[0].tokenised(prompt)

    def span(self, prompt: str, phrase: str) -> tuple[int, int]:
        """Finds a phrase as the first encoder does."""
        return self._embedders[0].span(prompt, phrase)

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells the encoders."""
        return ["pooled", *(each.identity(prompts) for each in self._embedders)]

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch 1 dim"]:
        """Gives each prompt's pooled row."""
        if afresh:
            parts = [list(prompts[start : start + 32]) for start in range(0, len(prompts), 32)]
            return torch.cat([self._pool(part) for part in parts])[:, None]
        keys = {prompt: (*self._place, prompt) for prompt in prompts}
        missing = [prompt for prompt, key in keys.items() if key not in self._rows]
        for start in range(0, len(missing), 32):
            some = missing[start : start + 32]
            for prompt, row in zip(some, self._pool(some), strict=True):
                self._rows[keys[prompt]] = row[None]
        return torch.stack([self._rows[keys[prompt]] for prompt in prompts])

    def encoded(
        self, prompts: Sequence[str], encoding: Encoding = PLAIN
    ) -> Float[Tensor, "batch 1 dim"]:
        """Gives each prompt's pooled row, as the encoders make it now."""
        parts = [each.pooled_rows(prompts, encoding) for each in self._embedders]
        return torch.cat(parts, dim=-1)[:, None]

    def _pool(self, prompts: list[str]) -> Float[Tensor, "batch dim"]:
        return torch.cat(self._parts(prompts), dim=-1)

    def _parts(self, prompts: list[str]) -> list[Tensor]:
        return [each.pooled_rows(prompts).to("cpu", torch.float64) for each in self._embedders]
