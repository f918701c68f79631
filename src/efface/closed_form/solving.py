"""The linear solve behind closed forms: its factor, how far to trust it, what would help."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.linalg.lapack import dpocon
from torch import Tensor

from efface.errors import BadRequest

__all__ = ["Conditioning", "conditioned", "factored"]

LARGEST_CONDITION = 1e13
"""Above this, float64 leaves fewer than three digits of the edit."""
WELL = 1e-12
"""Share of the largest eigenvalue that an advised ridge gives the smallest, ten times the limit."""


@dataclass(frozen=True)
class Conditioning:
    """How much the linear solve can be trusted."""

    condition: float
    """Estimated condition number of G in the 1-norm (LAPACK's pocon, from the factor)."""
    backward_error: float
    """Size of ``X G - C`` relative to C for the computed ``X = C G^-1``; about 1e-15 is perfect."""


def factored(system: Float[Tensor, "dim dim"], ridge: float) -> Float[Tensor, "dim dim"]:
    """Factorises a system that already has the ridge in it.

    Raises:
        BadRequest: it is not positive definite; the text says which pivot fails and which ridge
            would do.
    """
    if not bool(system.isfinite().all()):
        raise BadRequest(
            "the edit's Gram matrix holds values that are not finite; the text encoder's rows or a "
            "weight of the method overflow: lower the weights, or load the model in float32"
        )
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(system)
    if int(failed):
        raise BadRequest(
            f"the edit has no unique solution: its Gram matrix is not positive definite (pivot "
            f"{int(failed)} of {len(system)} fails); {_remedy(system, ridge)}"
        )
    return factor


def conditioned(
    system: Float[Tensor, "dim dim"],
    factor: Float[Tensor, "dim dim"],
    sources: Float[Tensor, "n dim"],
    right: Float[Tensor, "n dim"],
    ridge: float,
) -> Conditioning:
    """Looks back at a solve ``right = sources system^-1``.

    Raises:
        BadRequest: the condition number is too large; the text says which ridge would do.
    """
    size = float(system.abs().sum(0).max())
    reciprocal, _ = dpocon(factor.numpy(), size, uplo="L")
    condition = 1.0 / max(float(reciprocal), 1e-300)
    if condition > LARGEST_CONDITION:
        raise BadRequest(
            f"the edit is ill conditioned ({condition:.1e}, at most {LARGEST_CONDITION:.0e}); "
            f"{_remedy(system, ridge)}"
        )
    length = torch.linalg.matrix_norm(sources).clamp(min=1e-300)
    error = torch.linalg.matrix_norm(right @ system - sources) / length
    return Conditioning(condition, float(error))


def _remedy(system: Float[Tensor, "dim dim"], ridge: float) -> str:
    """Says which ridge would do: one that lifts the smallest eigenvalue to a safe share.

    ``WELL`` times the largest 1-norm is far enough from zero for the condition in the 1-norm, which
    is at most the square root of the width larger than the one by eigenvalues.
    """
    values = torch.linalg.eigvalsh(system)
    safe = WELL * len(system) ** 0.5 * float(system.abs().sum(0).max())
    enough = max(ridge + max(safe - float(values[0]), 0.0), 1e-12)
    return (
        f"its eigenvalues are from {float(values[0]):.1e} to {float(values[-1]):.1e} with the "
        f"ridge at {ridge:g}; raise the ridge to {_rounded_up(enough)} or more, or add prompts to "
        "keep"
    )


def _rounded_up(value: float) -> str:
    """Writes a number with two digits that is not below it."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step) * step:.1e}"
