"""Embeddings that make edited layers give the values of the unedited ones again, and their cost.

With ``W_l = W0_l P`` and ``F^T F = sum W0_l^T W0_l`` the squared error over all layers is
``|F P e' - F e|^2``, so one SVD of ``F P`` answers every ridge question about every token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from efface.closed_form.text_space import TokenPairs

__all__ = [
    "Regularisation",
    "ReturnProblem",
    "cost_to_regenerate",
    "costs_to_regenerate",
    "returning_rows",
]

Regularisation: TypeAlias = Literal[
    "zero_norm",
    "standard",
    "surrogate_values",
    "surrogate_identity",
    "surrogate_both",
    "limited",
]
"""What keeps returning embeddings from growing without bound.

``zero_norm`` pulls them to zero, ``standard`` to the embedding of a given text;
``surrogate_values`` mixes each with the embedding it stands for, ``surrogate_identity`` pulls it
toward that, ``surrogate_both`` does both. ``limited`` drops the directions whose squared gain in
the edited layers is below the strength, instead of damping all, and inverts the edit in the others.
"""

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
    regularisation: Regularisation,
    toward: Float[Tensor, "_ dim"] | None = None,
) -> Float[Tensor, "n dim"]:
    """Solves for the rows that best bring back what the given rows used to do (RECE, section 3.2).

    Minimises ``|F P e' - F e|^2`` plus ``strength`` times the penalty of ``regularisation``.

    Args:
        problem: the edited layers.
        rows: embeddings e of the erased concept.
        strength: weight of the penalty, in the units of squared values; 0 inverts the edit.
        regularisation: which penalty.
        toward: where ``standard`` pulls each row, or one row for all.
    """
    squared = problem.values**2
    aim = problem.aims(rows) * problem.values
    if regularisation == "limited":
        return _inverted(aim, squared, at_least=strength) @ problem.v.T
    own = rows @ problem.v
    match regularisation:
        case "zero_norm":
            above, below = aim, squared + strength
        case "standard":
            assert toward is not None
            above, below = aim + strength * (toward @ problem.v), squared + strength
        case "surrogate_values":
            above, below = aim + strength * squared * own, (1 + strength) * squared
        case "surrogate_identity":
            above, below = aim + strength * own, squared + strength
        case "surrogate_both":
            above = aim + strength * (squared + 1) * own
            below = (1 + strength) * squared + strength
    return _inverted(above, below) @ problem.v.T


def _inverted(
    above: Float[Tensor, "n dim"], below: Float[Tensor, " dim"], *, at_least: float = 0.0
) -> Float[Tensor, "n dim"]:
    """Divides where there is enough to divide by.

    Directions that the edited layers cannot see carry no information: the shortest solution.
    """
    enough = (below > 1e-24 * below.max()) & (below >= at_least)
    return torch.where(enough, above / below.clamp(min=1e-300), 0.0)


def cost_to_regenerate(
    problem: ReturnProblem,
    rows: Float[Tensor, "n dim"],
    targets: Float[Tensor, "n dim"],
) -> Float[Tensor, " n"]:
    """Measures how long an embedding must be to bring a concept back, in lengths of the original.

    The shortest x with ``|F P x - F e|`` at most `CLOSE` times ``|F t - F e|``, divided by ``|e|``.
    Near 1 without an edit. Where no x is close enough, the length of the closest one found.
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
    found = problem.values * aim / (problem.values**2 + low.exp()[:, None])
    cost: Tensor = found.norm(dim=1) / rows.norm(dim=1).clamp(min=1e-300)
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
    told = {"embedding_cost": min(each.values())}
    if len(each) > 1:
        told |= {f"embedding_cost_of_{name.replace(' ', '_')}": cost for name, cost in each.items()}
    return told
