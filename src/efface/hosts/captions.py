"""Rows of text past a projection of two layers, which a denoiser's cross-attention reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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

    Padding that is hidden from the attention layers has rows of zeros here.

    Args:
        inner: what the projection reads.
        model: the pipeline.
        norm: path of the weight of a norm that the projected rows pass; none when left out.
        path: of the projection in the denoiser.
        written: writes a prompt as the pipeline does; in small letters when left out.

    Raises:
        BadModel: the projection is missing or reads another width than the encoder gives.
    """

    pooled = False

    def __init__(
        self,
        inner: TextStream,
        model: Any,
        *,
        norm: str | None = None,
        path: str = PROJECTION,
        written: Callable[[str], str] | None = None,
    ) -> None:
        self._inner, self._written = inner, written or written_small
        self.vocabulary = inner.vocabulary
        paths = [f"{path}.linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")]
        first, first_bias, second, second_bias = (
            vector(model, "transformer", path).to("cpu", torch.float64) for path in paths
        )
        self._layers = ((first, first_bias), (second, second_bias))
        self._norm = None
        if norm is not None:
            self._norm = vector(model, "transformer", norm).to("cpu", torch.float64)
        if first.shape[1] != inner.width:
            raise BadModel(
                f"{path} reads {first.shape[1]} values and the text encoder gives "
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
        """Tells where the tokens of the prompt as it is written are."""
        return self._inner.tokenised(self._written(prompt))

    def span(self, prompt: str, phrase: str) -> tuple[int, int]:
        """Finds a phrase, whatever its capitals."""
        return self._inner.span(self._written(prompt), self._written(phrase))

    def identity(self, prompts: Sequence[str]) -> Any:
        """Tells the encoder and the projection."""
        digest = hashlib.sha256()
        values = [each for layer in self._layers for each in layer]
        for each in values if self._norm is None else [*values, self._norm]:
            digest.update(each.contiguous().numpy().tobytes())
        texts = [self._written(prompt) for prompt in prompts]
        return ["captions", digest.hexdigest(), self._inner.identity(texts)]

    def encoded(
        self, prompts: Sequence[str], encoding: Encoding = PLAIN
    ) -> Float[Tensor, "batch tokens dim"]:
        """Projects what the encoder gives now, in float64."""
        texts = [self._written(prompt) for prompt in prompts]
        rows = self._inner.encoded(texts, encoding).to("cpu", torch.float64)
        return self._projected(rows, prompts, len(encoding.prefix.get("text_encoder", ())))

    def embedded(
        self, prompts: Sequence[str], *, afresh: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Projects the encoder's rows in float64."""
        texts = [self._written(prompt) for prompt in prompts]
        return self._projected(self._inner.embedded(texts, afresh=afresh), prompts)

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
