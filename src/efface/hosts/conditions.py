"""What a denoiser reads of prompts, and how encoders may be asked for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["PLAIN", "Conditions", "Encoding"]


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the denoiser reads of prompts, one sample each; selected and joined like tensors."""

    rows: Float[Tensor, "n tokens dim"]
    """Rows of text."""
    pooled: Float[Tensor, "n width"] | None = None
    """One row per prompt, in the families that read one."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Int[Tensor, " m"] | Sequence[int] | slice) -> Conditions:
        """Selects samples, with repetition."""
        index = chosen if isinstance(chosen, slice | Tensor) else torch.tensor(list(chosen))
        return Conditions(self.rows[index], None if self.pooled is None else self.pooled[index])

    def repeated(self, times: int) -> Conditions:
        """Repeats one sample."""
        return self[[0] * times]

    @staticmethod
    def joined(parts: Sequence[Conditions]) -> Conditions:
        """Puts samples after one another."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Conditions(
            torch.cat([part.rows for part in parts]), torch.cat(pooled) if pooled else None
        )


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
