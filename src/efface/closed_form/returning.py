"""Embeddings that make edited layers give the values of the unedited ones again, and their cost.

With ``W_l = W0_l P`` and ``F^T F = sum W0_l^T W0_l`` the squared error over all layers is
``|F P e' - F e|^2``, so one SVD of ``F P`` answers every ridge question about every token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from efface.closed_form.text_space import TokenPairs

__all__ = [
    "ReturnProblem",
    "cost_to_regenerate",
    "costs_to_regenerate",
    "returning_rows",
]

CLOSE = 0.1
"""A concept counts as back when its values are this near, as a share of the way to its target."""


@dataclass(frozen=True)
class ReturnProblem:
    """The SVD ``F P = u diag(values) v^T`` and F."""

    factor: Float[Tensor, "dim dim"]
    u: Float[Tensor, "dim dim"]
    values: Float[Tensor, " dim"]
    v: Float[Tensor, "dim dim"]

    @classmethod
    def of(cls, factor: Float[Tensor, "dim dim"], edit: Float[Tensor, "dim dim"]) -> ReturnProblem:
        """Decomposes the edited layers, given F and P."""
        u, values, vt = torch.linalg.svd(factor @ edit)
        return cls(factor, u, values, vt.T)

    def aims(self, rows: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        """Gives the original values of token rows, in the coordinates of ``u``."""
        return rows @ self.factor.T @ self.u


def returning_rows(
    problem: ReturnProblem,
    rows: Float[Tensor, "n dim"],
    *,
    strength: float,
    toward: Float[Tensor, "n dim"] | None = None,
) -> Float[Tensor, "n dim"]:
    """Solves for the rows that best bring back what the given rows used to do (RECE, section 3.2).

    Minimises ``|F P e' - F e|^2 + strength |e' - toward|^2`` for every row: with
    ``A = strength I + (F P)^T F P`` and ``B = (F P)^T F`` that is ``e' = A^-1 (B e + strength
    toward)``. Directions that the edited layers cannot see carry no information: the shortest
    solution is taken.

    Args:
        problem: the edited layers.
        rows: embeddings e of the erased concept.
        strength: weight of the penalty, in the units of squared values; 0 inverts the edit.
        toward: where the penalty pulls each row; left out, to zero.
    """
    right = problem.aims(rows) * problem.values  # B e in the coordinates of v
    if toward is not None:
        right = right + strength * (toward @ problem.v)
    gains = problem.values**2 + strength  # A there, which is diagonal
    seen = gains > 1e-24 * gains.max()
    return torch.where(seen, right / gains.clamp(min=1e-300), 0.0) @ problem.v.T


def cost_to_regenerate(
    problem: ReturnProblem,
    rows: Float[Tensor, "n dim"],
    targets: Float[Tensor, "n dim"],
) -> Float[Tensor, " n"]:
    """Measures how long an embedding must be to bring a concept back, in lengths of the original.

    The shortest x with ``|F P x - F e|`` at most `CLOSE` times ``|F t - F e|``, divided by ``|e|``.
    Near 1 without an edit. Where no x is close enough, the length of the closest one.
    """
    allowed = CLOSE * ((targets - rows) @ problem.factor.T).norm(dim=1)
    aim = problem.aims(rows)
    largest = float(problem.values[0]) ** 2
    low = torch.full_like(allowed, largest * 1e-20).log()
    high = torch.full_like(allowed, largest * 1e6).log()
    for _ in range(60):
        middle = (low + high) / 2
        penalty = middle.exp()[:, None]
        error = (penalty * aim / (problem.values**2 + penalty)).norm(dim=1)
        low = torch.where(error <= allowed, middle, low)
        high = torch.where(error <= allowed, high, middle)
    shortest = problem.values * aim / (problem.values**2 + low.exp()[:, None])
    cost: Tensor = shortest.norm(dim=1) / rows.norm(dim=1).clamp(min=1e-300)
    return cost


def costs_to_regenerate(
    problem: ReturnProblem, named: Mapping[str, TokenPairs]
) -> dict[str, float]:
    """Gives what bringing back costs: of the weakest concept, and of each where there are several.

    A concept counts with its easiest wording: that is where its erasure is weakest.

    Args:
        problem: the edited layers.
        named: the rows of each concept, by its name.
    """
    each = {
        name: float(cost_to_regenerate(problem, pairs.sources, pairs.targets).min())
        for name, pairs in named.items()
    }
    costs = {"embedding_cost": min(each.values())}
    if len(each) > 1:
        costs |= {
            f"embedding_cost_of_{name.replace(' ', '_')}": cost for name, cost in each.items()
        }
    return costs
