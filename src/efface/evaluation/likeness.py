"""Does an edited model still draw? Its pictures of prompts that must stay, against the base's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = [
    "LEAST_OWN",
    "LEAST_SEEN",
    "ROUGHNESS",
    "Likeness",
    "likeness",
    "roughness",
    "thumbnails",
]

LEAST_OWN = 0.75
"""Sound erasures of the bundled model have 0.96 or more, and wrecks at most 0.64, but for noise of
a third, which the judge finds (benchmarks/collapse.py)."""
LEAST_SEEN = 0.5
"""Sound ones keep 0.92 or more of what the judge saw, wrecks at most 0.32 of it."""
ROUGHNESS = (0.5, 2.0)
"""Sound ones lie between 0.98 and 1.02."""
_SIDE = 16


@dataclass(frozen=True)
class Likeness:
    """How far pictures of the same prompts and seeds are still those of the unedited model."""

    pictures: int
    own: float
    """Share of edited pictures whose nearest picture of the unedited model is the one of the same
    prompt and seed. A wrecked model draws the same for all prompts, or something else altogether.
    It needs no judge, and its scale is the same for every model: by chance it is one in all."""
    roughness: float
    """Mean difference of pixels side by side, after over before: high for noise, low for blanks."""

    def complaints(self) -> tuple[str, ...]:
        """Says what no sound erasure does; empty when the pictures are sound."""
        found = []
        if not self.own >= LEAST_OWN:
            found.append(
                f"{self.own:.0%} of {self.pictures} pictures of other prompts are nearest to those "
                f"of the same prompt and seed before (at least {LEAST_OWN:.0%} in sound erasures)"
            )
        low, high = ROUGHNESS
        if not low <= self.roughness <= high:
            found.append(
                f"pictures of other prompts are {self.roughness:.2g} times as rough as before "
                f"({low:g} to {high:g} in sound erasures)"
            )
        return tuple(found)


def thumbnails(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n values"]:
    """Averages pictures down to 16 x 16, where layout and colours are left."""
    return functional.adaptive_avg_pool2d(images.double(), _SIDE).flatten(1)


def roughness(images: Float[Tensor, "n 3 h w"]) -> float:
    """Gives the mean absolute difference of neighbouring pixels, over both directions."""
    across = (images[..., 1:] - images[..., :-1]).abs().double().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().double().mean()
    return float(across + down)


def likeness(
    small: tuple[Float[Tensor, "n values"], Float[Tensor, "n values"]], rough: tuple[float, float]
) -> Likeness:
    """Compares thumbnails and roughness before and after; rows have the same prompt and seed."""
    before, after = small
    nearest = torch.cdist(after, before).argmin(dim=1)
    own = (nearest == torch.arange(len(after))).double().mean()
    return Likeness(len(after), float(own), rough[1] / max(rough[0], 1e-12))
