"""What families have in common whose text encoder is a language model and which predict flows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from efface.hosts.conditions import Conditions, Encoding
from efface.hosts.host import evenly_spaced
from efface.hosts.language import Frame, FramedRows
from efface.hosts.one_layer import OneLayerHost
from efface.hosts.streams import TextStream

__all__ = ["LanguageHost", "by_length", "conversation", "packed", "unpacked"]

_PLACE = "\ue000"
"""Stands for a prompt while a conversation is written."""


class LanguageHost(OneLayerHost):
    """A family that reads a language model's rows, as many as a prompt has tokens."""

    comfy_layers: ClassVar[bool] = False

    @property
    @abstractmethod
    def rows(self) -> FramedRows:
        """What the encoder gives of prompts, before any layer of the denoiser."""

    @property
    def stream(self) -> TextStream:
        """The encoder's rows as they are; some families norm them first."""
        return self.rows

    @cached_property
    def unconditional(self) -> FramedRows:
        """What it gives of the empty prompt that guidance starts from."""
        return self.rows

    def written(self, prompt: str) -> str:
        """Writes a prompt as the pipeline does before it is tokenised."""
        return prompt

    def encode(
        self,
        prompts: Sequence[str],
        *,
        gradients: bool = False,
        prefix: Mapping[str, Float[Tensor, "prefix dim"]] | None = None,
        embeddings: Mapping[str, Float[Tensor, "batch tokens dim"]] | None = None,
    ) -> Conditions:
        """Encodes prompts one by one, and says which rows are read.

        Raises:
            BadRequest: a prompt is too long, or embeddings are given.
            BadModel: gradients are asked of an encoder that runs from files.
        """
        encoding = Encoding(gradients, prefix or {}, embeddings or {})
        parts = []
        for prompt in prompts:
            stream = self.rows if prompt else self.unconditional
            rows = self._placed(stream.encoded([self.written(prompt)], encoding))
            read = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
            parts.append(Conditions(rows, read=read))
        return Conditions.joined(parts)

    def set_steps(self, scheduler: Any, steps: int, **options: Any) -> None:
        """Spaces noise levels evenly."""
        evenly_spaced(scheduler, steps, **options)


def _question(prompt: str) -> Any:
    return [{"role": "user", "content": prompt}]


def conversation(
    tokenizer: Any,
    asked: Callable[[str], Any] = _question,
    *,
    add_generation_prompt: bool = True,
    **options: Any,
) -> Frame:
    """Writes a conversation by a tokenizer's own template.

    Args:
        tokenizer: of the encoder.
        asked: makes the messages of a prompt; one question when left out.
        add_generation_prompt: whether the answer begins.
        options: of the template.
    """
    written = tokenizer.apply_chat_template(
        asked(_PLACE), tokenize=False, add_generation_prompt=add_generation_prompt, **options
    )
    before, _, after = written.partition(_PLACE)
    return Frame(before, after)


def by_length(
    ask: Callable[[Tensor, Tensor, Tensor], Tensor],
    latents: Float[Tensor, "n c h w"],
    times: Float[Tensor, " n"],
    conditions: Conditions,
) -> Float[Tensor, "n c h w"]:
    """Asks a network that knows no mask about samples with as many rows each together.

    Args:
        ask: runs the network on latents, times and rows, all of which are read.
        latents: of the samples.
        times: of the samples.
        conditions: of the samples.
    """
    if conditions.read is None:
        return ask(latents, times, conditions.rows)
    counts = conditions.read.sum(1)
    groups = [(counts == count).nonzero().flatten() for count in counts.unique()]
    made = [
        ask(latents[some], times[some], conditions.rows[some, : int(counts[some[0]])])
        for some in groups
    ]
    return torch.cat(made)[torch.cat(groups).argsort()]


def packed(latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n tokens values"]:
    """Makes one token of each two by two latents."""
    n, c, h, w = latents.shape
    tokens = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return tokens.reshape(n, (h // 2) * (w // 2), 4 * c)


def unpacked(
    tokens: Float[Tensor, "n tokens values"], height: int, width: int
) -> Float[Tensor, "n c h w"]:
    """Makes latents of such tokens again."""
    n, _, values = tokens.shape
    latents = tokens.view(n, height // 2, width // 2, values // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(n, values // 4, height, width)
