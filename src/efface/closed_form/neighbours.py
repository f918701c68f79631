"""Points around a token row: drawn from a shell, and their exact moments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from efface.errors import BadRequest

__all__ = ["Moments", "Shell", "moments", "sampled"]

_NODES = 64
"""Nodes of the quadrature over the cosine; its error is below rounding for shells."""


@dataclass(frozen=True)
class Shell:
    """All points of a cosine and a distance to a row, whatever the row's length.

    Raises:
        BadRequest: no point has these cosines within this distance.
    """

    low: float
    """Smallest cosine to the row."""
    high: float
    """Largest cosine to the row."""
    distance: float = math.inf
    """Largest distance from the row, in lengths of the row."""

    def __post_init__(self) -> None:
        if not -1 <= self.low <= self.high <= 1:
            raise BadRequest(
                f"a shell from cosine {self.low} to {self.high} is empty; "
                "both are between -1 and 1, and the first is the smaller"
            )
        if self.lowest > self.high:
            need = math.sqrt(1 - self.high**2)
            raise BadRequest(
                f"no point within {self.distance} lengths of a row has a cosine of at most "
                f"{self.high} to it; the distance must be at least {need:.3f}"
            )

    @property
    def lowest(self) -> float:
        """The smallest cosine that the distance allows: a row's own length away is a cone."""
        if self.distance >= 1:
            return self.low
        return max(self.low, math.sqrt(1 - self.distance**2))

    def radius(self, cosine: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Gives the length of a point in lengths of the row: as near to 1 as the distance allows.

        A point ``r (s e + sqrt(1 - s^2) u)`` is within D of a unit row e when r is within
        ``sqrt(D^2 - 1 + s^2)`` of s.
        """
        if math.isinf(self.distance):
            return torch.ones_like(cosine)
        slack = (self.distance**2 - 1 + cosine**2).clamp(min=0).sqrt()
        return torch.ones_like(cosine).clamp(min=cosine - slack, max=cosine + slack)


@dataclass(frozen=True)
class Moments:
    """First and second moments of points around rows."""

    mean: Float[Tensor, "n dim"]
    """The mean point around each row."""
    second: Float[Tensor, "dim dim"]
    """Weighted sum over the rows of ``E[x x^T]``."""


def sampled(
    rows: Float[Tensor, "n dim"],
    shell: Shell,
    count: int,
    generator: torch.Generator,
    *,
    blocks: Sequence[int] = (),
) -> Float[Tensor, "m dim"]:
    """Draws ``count`` points of the shell around each row, without rejection; row by row in turn.

    Cosines are uniform over those that the distance allows, directions uniform on the sphere.

    Args:
        rows: what they are drawn around.
        shell: which cosines and distances.
        count: how many a row.
        generator: of the random numbers.
        blocks: widths of parts of a row that are of different encoders. Each part is turned by
            itself, all by the same angle, so that noise is in proportion to its length and the
            whole row has the same cosine and distance; left out, a row is one part.
    """
    wide = rows.to(torch.float64).repeat_interleave(count, dim=0)
    drawn = torch.randn(wide.shape, generator=generator, dtype=torch.float64)
    share = torch.rand(len(wide), 1, generator=generator, dtype=torch.float64)
    cosine = shell.lowest + (shell.high - shell.lowest) * share
    sine = (1 - cosine**2).clamp(min=0).sqrt()
    points = []
    for part, noise in zip(
        *(each.split(_parts(blocks, wide), 1) for each in (wide, drawn)), strict=True
    ):
        length = part.norm(dim=1, keepdim=True)
        along = part / length.clamp(min=1e-300)
        across = noise - (noise * along).sum(1, keepdim=True) * along
        across = across / across.norm(dim=1, keepdim=True).clamp(min=1e-300)
        points.append(length * shell.radius(cosine) * (cosine * along + sine * across))
    return torch.cat(points, dim=1)


def _parts(blocks: Sequence[int], rows: Float[Tensor, "n dim"]) -> list[int]:
    return list(blocks) or [rows.shape[1]]


def moments(
    rows: Float[Tensor, "n dim"],
    weights: Float[Tensor, " n"],
    shell: Shell,
    *,
    blocks: Sequence[int] = (),
) -> Moments:
    """Gives what infinitely many points of `sampled` add up to, by one-dimensional integrals.

    ``E[x] = E[r s] e`` and ``E[x x^T] = E[r^2 s^2] e e^T + E[r^2 (1 - s^2)] (|e|^2 I - e e^T) /
    (dim - 1)`` for r and s in lengths of e; the last term is each block's own.

    Args:
        rows: what the points are around.
        weights: of the rows.
        shell: which cosines and distances.
        blocks: see `sampled`.
    """
    nodes, factors = np.polynomial.legendre.leggauss(_NODES)
    half = (shell.high - shell.lowest) / 2
    cosine = torch.from_numpy(shell.lowest + half * (nodes + 1))
    share = torch.from_numpy(factors / 2)
    radius = shell.radius(cosine)
    first = float((share * radius * cosine).sum())
    along = float((share * (radius * cosine) ** 2).sum())
    across = float((share * radius**2 * (1 - cosine**2)).sum())
    wide, heavy = rows.to(torch.float64), weights.to(torch.float64)
    outer = (wide * heavy[:, None]).T @ wide
    second, start = along * outer, 0
    for width in _parts(blocks, wide):
        here = slice(start, start := start + width)
        own = outer[here, here]
        spread = across / max(width - 1, 1)
        identity = torch.eye(width, dtype=torch.float64)
        second[here, here] = (along - spread) * own + spread * float(own.trace()) * identity
    return Moments(first * wide, second)
