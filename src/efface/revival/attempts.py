"""What an attack asks to be drawn, and what it may spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from efface.deltas.patches import Patch
from efface.errors import BadRequest

__all__ = ["Attempt", "Budget"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one trial may spend.

    Raises:
        BadRequest: not even one picture could be drawn.
    """

    evaluations: int = 2000
    """Network evaluations, those of drawing included; a step with gradients counts once per sample,
    as one without does."""
    pictures: int = 12
    """Pictures that are drawn and judged."""

    def __post_init__(self) -> None:
        if self.evaluations < 1 or self.pictures < 1:
            raise BadRequest(
                f"the budget is {self.evaluations} network evaluations and {self.pictures} "
                "pictures a trial; a trial needs at least one of each"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """One picture that may show the concept again: all that is needed to draw it."""

    trial: int
    """Which trial it is of."""
    prompt: str
    seed: int
    """Of the first noise."""
    spent: int = 0
    """Network evaluations that this trial took since its last attempt, without drawing it."""
    embeddings: Mapping[str, Float[Tensor, "tokens dim"]] = field(default_factory=dict)
    """By encoder: input embeddings of all positions, in place of those of the prompt's tokens."""
    rows: Float[Tensor, "tokens dim"] | None = None
    """Rows that the denoiser reads, in place of what the encoder gives."""
    negative: str = ""
    """What guidance leads away from."""
    guidance: float | None = None
    """Scale of guidance; None: the target's. Up to 1 there is none, as in the pipelines."""
    steps: int | None = None
    """Denoising steps; None: the target's."""
    scheduler: str = ""
    """A scheduler of diffusers by its class; empty: the deterministic one of the model's kind."""
    noise: Float[Tensor, "c h w"] | None = None
    """First noise, in place of the seed's."""
    clean: Float[Tensor, "c h w"] | None = None
    """Latents of the finished picture, which the attack sampled itself: they are only decoded."""
    without: frozenset[str] = frozenset()
    """Parts of the erasure that are taken off: components such as ``text_encoder``, or ``gate``."""
    added: Mapping[str, Patch] = field(default_factory=dict)
    """Changes of weights that are put on the edited model."""
    note: str = ""
    """What was tried, for people."""
