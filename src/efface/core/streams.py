"""What a denoiser reads of a prompt: rows of one or several text encoders, or one pooled row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from efface.core.text import Embedder, TokenisedPrompt, evaluating
from efface.errors import BadModel
from efface.models.components import canonical

__all__ = ["Captions", "Padded", "Pooled", "SideBySide", "TextStream", "Weighted"]

PROJECTION = "caption_projection"
CAPTION_LENGTH = 300
"""Tokens that PixArt-sigma reads; PixArt-alpha reads 120. Hidden padding changes no row."""


@runtime_checkable
class TextStream(Protocol):
    """Prompts as rows, with the places of their tokens; `Embedder` is one."""

    pooled: bool
    """Whether a prompt is one row, of no token in particular."""

    @property
    def width(self) -> int:
        """The number of values in a row."""

    def tokenised(self, prompt: str) -> TokenisedPrompt:
        """Tells where a prompt's tokens are."""

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Gives the rows of prompts in float64 on the CPU; afresh, nothing is remembered."""

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

    @property
    def width(self) -> int:
        """The widths of both."""
        return self._first.width + self._second.width

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

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells both encoders."""
        return ["side by side", self._first.identity(prompts), self._second.identity(prompts)]

    def span(self, prompt: str, phrase: str) -> tuple[int, int]:
        """Finds a phrase as the first encoder does."""
        return self._first.span(prompt, phrase)


class Padded:
    """Rows of a narrower stream filled up with zeros, as Stable Diffusion 3 joins CLIP to T5."""

    pooled = False

    def __init__(self, inner: TextStream, width: int) -> None:
        self._inner = inner
        self.width = width
        self.tokenised, self.span = inner.tokenised, inner.span

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells the inner stream and the width."""
        return ["padded", self.width, self._inner.identity(prompts)]

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Fills the inner stream's rows up."""
        rows = self._inner.embedded(prompts, afresh=afresh)
        return functional.pad(rows, (0, self.width - rows.shape[-1]))


class Weighted:
    """Rows of a stream times a number: ``P c = t`` asks the same of rows of any length.

    The number decides how much the rows count beside those of another stream.
    """

    pooled = False

    def __init__(self, inner: TextStream, factor: float) -> None:
        self.inner, self._factor = inner, factor
        self.tokenised, self.span = inner.tokenised, inner.span

    @property
    def width(self) -> int:
        """The inner stream's width."""
        return self.inner.width

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells the inner stream and the factor."""
        return ["weighted", self._factor.hex(), self.inner.identity(prompts)]

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Scales the inner stream's rows."""
        return self.inner.embedded(prompts, afresh=afresh) * self._factor


class Pooled:
    """One row a prompt: the pooled outputs of CLIP encoders, joined.

    Args:
        model: the pipeline.
        suffixes: of the encoders, in the order in which the denoiser reads them.
    """

    pooled = True

    def __init__(self, model: Any, *suffixes: str) -> None:
        self._embedders = [Embedder(model, suffix=suffix) for suffix in suffixes]
        self._encoders = [getattr(model, f"text_encoder{suffix}") for suffix in suffixes]
        self._rows: dict[Any, Tensor] = getattr(model, "embedded_prompts", {})
        self._place = ("pooled", *suffixes)

    @property
    def width(self) -> int:
        """The widths of all pooled outputs."""
        return int(self.embedded([""]).shape[-1])

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

    def _pool(self, prompts: list[str]) -> Float[Tensor, "batch dim"]:
        parts = []
        for embedder, encoder in zip(self._embedders, self._encoders, strict=True):
            ids = torch.tensor([embedder.tokenised(prompt).ids for prompt in prompts])
            with evaluating(encoder), torch.no_grad():
                output = encoder(ids.to(encoder.device))
            projected = getattr(output, "text_embeds", None)
            pooled = output.pooler_output if projected is None else projected
            parts.append(pooled.to("cpu", torch.float64))
        return torch.cat(parts, dim=-1)


class Captions:
    """Rows of T5 as PixArt's cross-attention reads them: past the denoiser's own projection.

    Prompts are written in small letters, as the pipeline does. Padding is hidden from T5 and from
    the attention layers; its rows are zeros here.

    Raises:
        BadModel: the projection is missing or reads another width than T5 gives.
    """

    pooled = False

    def __init__(self, model: Any) -> None:
        longest = min(CAPTION_LENGTH, int(model.tokenizer.model_max_length))
        self._t5 = Embedder(model, length=longest, masked=True)
        named = {canonical(path): p for path, p in model.transformer.named_parameters()}
        paths = [f"{PROJECTION}.linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")]
        if missing := [path for path in paths if path not in named]:
            raise BadModel(f"the transformer has no {missing[0]}, which captions pass")
        first, first_bias, second, second_bias = (
            named[path].detach().to("cpu", torch.float64) for path in paths
        )
        self._layers = ((first, first_bias), (second, second_bias))
        if first.shape[1] != self._t5.width:
            raise BadModel(
                f"{PROJECTION} reads {first.shape[1]} values and T5 gives {self._t5.width}; "
                "encoder and denoiser are of different models"
            )

    @property
    def width(self) -> int:
        """What the projection gives."""
        return len(self._layers[1][1])

    def tokenised(self, prompt: str) -> TokenisedPrompt:
        """Tells where the tokens of the prompt in small letters are."""
        return self._t5.tokenised(_small(prompt))

    def span(self, prompt: str, phrase: str) -> tuple[int, int]:
        """Finds a phrase, whatever its capitals."""
        return self._t5.span(_small(prompt), _small(phrase))

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells T5 and the projection."""
        digest = hashlib.sha256()
        for values in (each for layer in self._layers for each in layer):
            digest.update(values.contiguous().numpy().tobytes())
        small = [_small(prompt) for prompt in prompts]
        return ["captions", digest.hexdigest(), self._t5.identity(small)]

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Projects T5's rows in float64."""
        rows = self._t5.embedded([_small(prompt) for prompt in prompts], afresh=afresh)
        inner = functional.gelu(functional.linear(rows, *self._layers[0]), approximate="tanh")
        ends = torch.tensor([self.tokenised(prompt).read for prompt in prompts])
        read = torch.arange(rows.shape[1]) < ends[:, None]
        return functional.linear(inner, *self._layers[1]) * read[:, :, None]


def _small(prompt: str) -> str:
    return prompt.lower().strip()
