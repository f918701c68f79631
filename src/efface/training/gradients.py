"""Rules on gradients and weights: which may change, and in which directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from efface.errors import BadRequest
from efface.memory import wide

__all__ = [
    "SaliencyScope",
    "intersected",
    "orthonormal_rows",
    "projected_away",
    "saliency_masks",
    "without_directions",
]

SaliencyScope: TypeAlias = Literal["all", "tensor"]
"""Whether a share is taken over all weights together (SalUn) or over each tensor (ANT)."""


def saliency_masks(
    gradients: Mapping[str, Tensor],
    share: float,
    *,
    scope: SaliencyScope = "all",
    least: bool = False,
) -> dict[str, Tensor]:
    """Marks the weights with the largest absolute gradients (SalUn, section 4).

    Exactly ``floor(share * count)`` are marked, of equal ones the earlier; sign and positive scale
    of the gradients do not matter.

    Args:
        gradients: by parameter.
        share: of the weights, 0 to 1.
        scope: of all together, or of each tensor.
        least: mark those with the smallest gradients instead.

    Raises:
        BadRequest: every gradient is zero, or nothing is marked, so that nothing could change.
    """
    sizes = {key: gradient.abs().flatten() for key, gradient in sorted(gradients.items())}
    if not any(bool(size.any()) for size in sizes.values()):
        raise BadRequest(
            "the saliency mask is all zero: the loss does not depend on the chosen weights; "
            "check that the concept differs from its anchor"
        )
    if least:
        sizes = {key: -size for key, size in sizes.items()}
    if scope == "tensor":
        marks = {key: _largest(size, share) for key, size in sizes.items()}
    else:
        marked = _largest(torch.cat([*sizes.values()]), share)
        parts = marked.split([len(size) for size in sizes.values()])
        marks = dict(zip(sizes, parts, strict=True))
    if not any(bool(mark.any()) for mark in marks.values()):
        raise BadRequest(f"a saliency of {share} marks no weight at all; raise it")
    return {key: mark.reshape(gradients[key].shape) for key, mark in marks.items()}


def intersected(masks: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Marks what every mask marks (ANT's augmented saliency).

    Args:
        masks: at least one; an iterator's are held one at a time.

    Raises:
        BadRequest: no weight is in all of them.
    """
    both: dict[str, Tensor] = {}
    count = 0
    for mask in masks:
        both = {key: mark & both.get(key, mark) for key, mark in mask.items()}
        count += 1
    if not any(bool(mark.any()) for mark in both.values()):
        raise BadRequest(
            f"the saliency mask is all zero: no weight is in all {count} maps; raise their "
            "share or make fewer of them"
        )
    return both


def _largest(sizes: Float[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
    order = sizes.argsort(descending=True, stable=True)
    marks = torch.zeros(len(sizes), dtype=torch.bool, device=sizes.device)
    marks[order[: int(share * len(sizes))]] = True
    return marks


def projected_away(
    gradients: Sequence[Tensor], against: Sequence[Tensor], *, each: bool = False
) -> tuple[list[Tensor], float]:
    """Takes out of gradients what would undo others (DoCo, section 3.2; PCGrad).

    Where the inner product is negative, the component along ``against`` is removed, so that a small
    step no longer raises the other loss; else nothing changes.

    Args:
        gradients: of the loss to descend, one a parameter.
        against: of the loss to protect, in the same order.
        each: decide and project for every parameter by itself, instead of for all as one vector.

    Returns:
        The gradients, and the cosine between the two before (over all parameters).
    """
    inner, sizes, others = (
        torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)])
        for first, second in ((gradients, against), (gradients, gradients), (against, against))
    )
    cosine = float(inner.sum() / (sizes.sum() * others.sum()).sqrt().clamp(min=1e-30))
    if not each:
        inner, others = inner.sum().expand_as(inner), others.sum().expand_as(others)
    factors = torch.where(inner < 0, inner / others.clamp(min=1e-30), 0.0)
    kept = [g - f * a for g, f, a in zip(gradients, factors, against, strict=True)]
    return kept, cosine


def orthonormal_rows(
    rows: Float[Tensor, "n dim"], *, energy: float = 1.0
) -> Float[Tensor, "rank dim"]:
    """Gives an orthonormal basis of the space that rows span, in float64 on the CPU.

    Args:
        rows: such as the token embeddings of the empty prompt.
        energy: share of the rows' squared length that the basis must hold; fewer directions below
            1, and 1 keeps all that rise above rounding.
    """
    _, values, basis = torch.linalg.svd(rows.cpu().double(), full_matrices=False)
    energies = (values**2).cumsum(0) / (values**2).sum().clamp(min=1e-300)
    count = int((energies < energy - 1e-12).sum()) + 1 if energy < 1 else len(values)
    resolved = int((values > 1e-7 * values[0]).sum())
    directions: Tensor = basis[: min(count, resolved)]
    return directions


def without_directions(
    change: Float[Tensor, "out dim"], basis: Float[Tensor, "rank dim"]
) -> Float[Tensor, "out dim"]:
    """Takes directions of the input out of a change of weights, in float64, then casts back.

    What reads only inputs in the span of the basis is then changed by rounding alone:
    ``change (I - Q^T Q)``.
    """
    full = wide(change)
    directions = basis.to(full)
    return (full - (full @ directions.T) @ directions).to(change.dtype)
