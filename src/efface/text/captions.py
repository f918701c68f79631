"""What PixArt reads of a prompt: rows of T5 past the denoiser's own projection."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from efface.errors import BadModel
from efface.hosts.components import canonical
from efface.text.embedding import Embedder, TokenisedPrompt

__all__ = ["Captions"]

PROJECTION = "caption_projection"
CAPTION_LENGTH = 300
"""Tokens that PixArt-sigma reads; PixArt-alpha reads 120. Hidden padding changes no row."""


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
        self.vocabulary = self._t5.vocabulary
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

    @property
    def blocks(self) -> tuple[int, ...]:
        """One: T5's."""
        return (self.width,)

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
