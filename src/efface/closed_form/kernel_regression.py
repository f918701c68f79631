"""Kernel ridge regression of row changes on a few centers, in blocks of rows.

Minimises, over coefficients A of centers Z,

    sum_i w_i |D_i - k(x_i, Z) A|^2  +  lam trace(A^T K A),    K = k(Z, Z)

by ``(lam K + K_xz^T W K_xz) A = K_xz^T W D``: a Nystroem approximation, the mean of a Gaussian
process with inducing points Z and noise lam. Rows come in blocks and are not kept: memory is the
square of the number of centers and their rows, whatever the number of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.closed_form.solving import Conditioning, factored
from efface.deltas.row_maps import RowMap, gaussian
from efface.errors import BadRequest

__all__ = ["RowRegression", "RowSolution", "farthest", "median_distance"]

JITTER = 1e-12
"""Added to the diagonal as a share of its mean: centers may lie close to one another."""
AT_A_TIME = 2048
"""Rows whose kernel values are held at a time."""
SAMPLED = 1000
"""Centers among which the median distance is taken."""


@dataclass(frozen=True)
class RowSolution:
    """A regressed map of rows."""

    map: RowMap
    conditioning: Conditioning
    """Its condition is estimated from the factor's diagonal."""
    figures: dict[str, float]
    """``residual``: what is left of the way to the targets, 0 to 1; ``interference``: how far rows
    that should stay move, relative to their length."""


class RowRegression:
    """Sums of a regression over blocks of rows, and its solution.

    Args:
        centers: the Z.
        length_scale: the s of the kernel.
    """

    def __init__(self, centers: Float[Tensor, "centers dim"], length_scale: float) -> None:
        self.centers = centers.to(torch.float64)
        self.length_scale = torch.tensor(length_scale, dtype=torch.float64)
        count, width = self.centers.shape
        self._moved = torch.zeros(count, count, dtype=torch.float64)
        self._held = torch.zeros(count, count, dtype=torch.float64)
        self._cross = torch.zeros(count, width, dtype=torch.float64)
        self._wanted = self._length = 0.0

    def move(self, rows: Float[Tensor, "n dim"], changes: Float[Tensor, "n dim"]) -> None:
        """Adds rows with the changes that are wanted of them."""
        for some, wanted in zip(rows.split(AT_A_TIME), changes.split(AT_A_TIME), strict=True):
            near = self._near(some)
            self._moved.addmm_(near.T, near)
            self._cross.addmm_(near.T, wanted.to(torch.float64))
            self._wanted += float(wanted.square().sum())

    def hold(self, rows: Float[Tensor, "n dim"]) -> None:
        """Adds rows that should stay."""
        for some in rows.split(AT_A_TIME):
            near = self._near(some)
            self._held.addmm_(near.T, near)
            self._length += float(some.square().sum())

    def _near(self, rows: Float[Tensor, "n dim"]) -> Float[Tensor, "n centers"]:
        return gaussian(rows.to(torch.float64), self.centers, self.length_scale)

    def solved(self, *, ridge: float, keep_scale: float = 1.0) -> RowSolution:
        """Solves for the coefficients.

        Args:
            ridge: lam, the noise; toward 0 rows go where they should exactly, if all are centers.
            keep_scale: weight of a row that should stay, where one that moves has 1.

        Raises:
            BadRequest: the system has no stable solution; raise ``ridge``.
        """
        system = gaussian(self.centers, self.centers, self.length_scale).mul_(ridge)
        system.add_(self._moved).add_(self._held, alpha=keep_scale)
        system.diagonal().add_(JITTER * system.diagonal().mean())
        factor = factored(system, ridge)
        found = torch.cholesky_solve(self._cross, factor).contiguous()
        error = (system @ found - self._cross).norm() / self._cross.norm().clamp(min=1e-300)
        spread = float(factor.diagonal().max() / factor.diagonal().min())
        told = Conditioning(condition=spread**2, backward_error=float(error))
        return RowSolution(RowMap(self.centers, found, self.length_scale), told, self._told(found))

    def _told(self, found: Float[Tensor, "centers dim"]) -> dict[str, float]:
        """Measures what is left of the way to the targets, and how far rows to hold move."""
        left = self._wanted - float((found * (2 * self._cross - self._moved @ found)).sum())
        held = float((found * (self._held @ found)).sum())
        return {
            "residual": math.sqrt(max(left, 0.0) / max(self._wanted, 1e-300)),
            "interference": math.sqrt(max(held, 0.0) / max(self._length, 1e-300)),
        }


def median_distance(rows: Float[Tensor, "n dim"]) -> float:
    """Gives the median distance between two of some rows, evenly strided.

    Raises:
        BadRequest: there are fewer than two different rows.
    """
    some = rows[:: max(1, len(rows) // SAMPLED)][:SAMPLED].to(torch.float64)
    apart = torch.nn.functional.pdist(some) if len(some) > 1 else some.new_zeros(0)
    apart = apart[apart > 0]
    if not len(apart):
        raise BadRequest(
            "all rows of the prompts to erase and keep are the same, so there is no length scale; "
            "keep other prompts"
        )
    return float(apart.median())


def farthest(rows: Float[Tensor, "n dim"], count: int) -> Int[Tensor, " m"]:
    """Chooses rows one by one, each the farthest from those before it; the first one is given.

    Rows that lie on a chosen one are left out, so fewer may come back.
    """
    wide = rows.to(torch.float64)
    chosen = [0]
    nearest = (wide - wide[0]).square().sum(1)
    for _ in range(min(count, len(rows)) - 1):
        place = int(nearest.argmax())
        if float(nearest[place]) == 0.0:
            break
        chosen.append(place)
        nearest = torch.minimum(nearest, (wide - wide[place]).square().sum(1))
    return torch.tensor(chosen)
