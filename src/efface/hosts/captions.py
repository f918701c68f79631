"""Rows of text past a projection of two layers, which a denoiser's cross-attention reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from efface.errors import BadModel
from efface.hosts.conditions import PLAIN, Encoding
from efface.hosts.embedding import TokenisedPrompt
from efface.hosts.readers import vector
from efface.hosts.streams import TextStream

__all__ = ["PROJECTION", "Captions", "written_small"]

PROJECTION = "caption_projection"


class Captions:
    """Rows of an encoder as cross-attention reads them: past the denoiser's own projection.

    Prompts are written in small letters, as the pipelines do. Padding is hidden from the encoder
    and from the attention layers; its rows are zeros here.

    Args:
        inner: what the projection reads.
        model: the pipeline.
        norm: path of the weight of a norm that the projected rows pass; none when left out.

    Raises:
        BadModel: the projection is missing or reads another width than the encoder gives.
    """

    pooled = False

    def __init__(self, inner: TextStream, model: Any, *, norm: str | None = None) -> None:
        self._inner = inner
        self.vocabulary = inner.vocabulary
        paths = [f"{PROJECTION}.linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")]
        first, first_bias, second, second_bias = (
            vector(model, "transformer", path).to("cpu", torch.float64) for path in paths
        )
        self._layers = ((first, first_bias), (second, second_bias))
        self._norm = None
        if norm is not None:
            self._norm = vector(model, "transformer", norm).to("cpu", torch.float64)
        if first.shape[1] != inner.width:
            raise BadModel(
                f"{PROJECTION} reads {first.shape[1]} values and the text encoder gives "
                f"{inner.width}; encoder and denoiser are of different models"
            )

    @property
    def width(self) -> int:
        """What the projection gives."""
        return len(self._layers[1][1])

    @property
    def blocks(self) -> tuple[int, ...]:
        """One: the encoder's."""
        return (self.width,)

    def tokenised(self, prompt: str) -> TokenisedPrompt:
        """Tells where the tokens of the prompt in small letters are."""
        return self._inner.tokenised(written_small(prompt))

    def span(self, prompt: str, phrase: str) -> tuple[int, int]:
        """Finds a phrase, whatever its capitals."""
        return self._inner.span(written_small(prompt), written_small(phrase))

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells the encoder and the projection."""
        digest = hashlib.sha256()
        values = [each for layer in self._layers for each in layer]
        for each in values if self._norm is None else [*values, self._norm]:
            digest.update(each.contiguous().numpy().tobytes())
        small = [written_small(prompt) for prompt in prompts]
        return ["captions", digest.hexdigest(), self._inner.identity(small)]

    def encoded(
        self, prompts: Sequence[str], encoding: Encoding = PLAIN
    ) -> Float[Tensor, "batch tokens dim"]:
        """Projects what the encoder gives now, in float64."""
        small = [written_small(prompt) for prompt in prompts]
        rows = self._inner.encoded(small, encoding).to(torch.float64)
        return self._projected(rows, prompts, len(encoding.prefix.get("text_encoder", ())))

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Projects the encoder's rows in float64."""
        small = [written_small(prompt) for prompt in prompts]
        return self._projected(self._inner.embedded(small, afresh=afresh), prompts)

    def _projected(self, rows: Tensor, prompts: Sequence[str], before: int = 0) -> Tensor:
        inner = functional.gelu(functional.linear(rows, *self._layers[0]), approximate="tanh")
        ends = torch.tensor([self.tokenised(prompt).read + before for prompt in prompts])
        read = torch.arange(rows.shape[1]) < ends[:, None]
        captions = functional.linear(inner, *self._layers[1])
        if self._norm is not None:
            captions = functional.rms_norm(captions, (self.width,), self._norm, eps=1e-5)
        return captions * read[:, :, None]


def written_small(prompt: str) -> str:
    """Writes a prompt in small letters without spaces around it."""
    return prompt.lower().strip()
