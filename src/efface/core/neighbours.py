"""Points around a token row: drawn from a shell, their exact moments, and real words nearby."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from efface.core.text import Embedder
from efface.errors import BadRequest

__all__ = ["Moments", "Shell", "moments", "nearest_words", "sampled"]

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
    rows: Float[Tensor, "n dim"], shell: Shell, count: int, generator: torch.Generator
) -> Float[Tensor, "m dim"]:
    """Draws ``count`` points of the shell around each row, without rejection; row by row in turn.

    Cosines are uniform over those that the distance allows, directions uniform on the sphere.
    """
    wide = rows.to(torch.float64).repeat_interleave(count, dim=0)
    length = wide.norm(dim=1, keepdim=True)
    along = wide / length.clamp(min=1e-300)
    drawn = torch.randn(wide.shape, generator=generator, dtype=torch.float64)
    across = drawn - (drawn * along).sum(1, keepdim=True) * along
    across = across / across.norm(dim=1, keepdim=True).clamp(min=1e-300)
    share = torch.rand(len(wide), 1, generator=generator, dtype=torch.float64)
    cosine = shell.lowest + (shell.high - shell.lowest) * share
    sine = (1 - cosine**2).clamp(min=0).sqrt()
    points: Tensor = length * shell.radius(cosine) * (cosine * along + sine * across)
    return points


def moments(rows: Float[Tensor, "n dim"], weights: Float[Tensor, " n"], shell: Shell) -> Moments:
    """Gives what infinitely many points of `sampled` add up to, by one-dimensional integrals.

    ``E[x] = E[r s] e`` and ``E[x x^T] = E[r^2 s^2] e e^T + E[r^2 (1 - s^2)] (|e|^2 I - e e^T) /
    (dim - 1)`` for r and s in lengths of e.
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
    spread = across / max(wide.shape[1] - 1, 1)
    total = float(outer.trace())
    identity = torch.eye(wide.shape[1], dtype=torch.float64)
    return Moments(first * wide, (along - spread) * outer + spread * total * identity)


def nearest_words(
    embedder: Embedder, name: str, count: int, *, without: Collection[str]
) -> list[str]:
    """Finds the words of the tokenizer whose input embeddings are most like a name's last token.

    Args:
        embedder: tokenizer and text encoder.
        name: what they should be near to.
        count: how many at most.
        without: words to leave out, in lower case, such as kept ones; those of the name are too.
    """
    table, words = embedder.vocabulary()
    last = embedder.tokenised(name).content[-1]
    likeness = torch.nn.functional.cosine_similarity(table, table[last][None])
    banned = {*without, *name.lower().split()}
    found: list[str] = []
    for index in likeness.argsort(descending=True).tolist():
        word = words.get(index)
        if word is not None and word not in banned:
            found.append(word)
        if len(found) == count:
            break
    return found
