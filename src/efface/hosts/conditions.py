"""What a denoiser reads of prompts, and how encoders may be asked for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

__all__ = ["PLAIN", "Conditions", "Encoding"]


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the denoiser reads of prompts, one sample each; selected and joined like tensors."""

    rows: Float[Tensor, "n tokens dim"]
    """Rows of text."""
    pooled: Float[Tensor, "n width"] | None = None
    """One row per prompt, in the families that read one."""
    read: Bool[Tensor, "n tokens"] | None = None
    """Which rows are read, in the families whose prompts have as many rows as they have tokens."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Int[Tensor, " m"] | Sequence[int] | slice) -> Conditions:
        """Selects samples, with repetition."""
        index = chosen if isinstance(chosen, slice | Tensor) else torch.tensor(list(chosen))
        pooled, read = (None if each is None else each[index] for each in (self.pooled, self.read))
        return Conditions(self.rows[index], pooled, read)

    def repeated(self, times: int) -> Conditions:
        """Repeats one sample."""
        return self[[0] * times]

    @staticmethod
    def joined(parts: Sequence[Conditions]) -> Conditions:
        """Puts samples after one another."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        read = [part.read for part in parts if part.read is not None]
        most = max(part.rows.shape[1] for part in parts) if read else 0
        return Conditions(
            torch.cat([_lengthened(part.rows.mT, most).mT for part in parts]),
            torch.cat(pooled) if pooled else None,
            torch.cat([_lengthened(each, most) for each in read]) if read else None,
        )


def _lengthened(values: Shaped[Tensor, "*batch tokens"], most: int) -> Shaped[Tensor, "*batch _"]:
    """Fills the last dimension up with zeros, which are rows that nobody reads."""
    missing = most - values.shape[-1]
    return functional.pad(values, (0, missing)) if missing > 0 else values


@dataclass(frozen=True, eq=False)
class Encoding:
    """How text encoders are run: with gradients, and with embeddings that no token has."""

    gradients: bool = False
    """Whether what they give can be differentiated by their weights and by what is given here."""
    prefix: Mapping[str, Float[Tensor, "prefix dim"]] = field(default_factory=dict)
    """By encoder, such as ``text_encoder``: input embeddings put before each prompt's first token,
    as many in each encoder that is named."""
    embeddings: Mapping[str, Float[Tensor, "batch tokens dim"]] = field(default_factory=dict)
    """By encoder: input embeddings of all positions, in place of those of the prompts' tokens;
    the prompts still say where the end is."""


PLAIN = Encoding()
"""Prompts as they are, without gradients."""
