"""One layer of the closed-form edit as published, and the drift of its float32 inversion."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.closed_form.text_space import Solution, TokenPairs, gram, ridge_edit
from efface.deltas.patches import TextMapPatch

RIDGE = 0.5
"""Pull toward the unedited weights, as released."""


def literal_layer(
    weights: list[Tensor], layer: int, pairs: list[tuple[Tensor, Tensor]], kept: list[Tensor]
) -> Tensor:
    """One layer as published: all projections of every prompt, sums, a float32 inverse."""
    weight = weights[layer]
    moved = RIDGE * weight
    system = RIDGE * torch.eye(weight.shape[1])
    for sources, targets in pairs:
        values = [targets @ each.T for each in weights]
        moved = moved + values[layer].T @ sources
        system = system + sources.T @ sources
    for rows in kept:
        values = [rows @ each.T for each in weights]
        moved = moved + values[layer].T @ rows
        system = system + rows.T @ rows
    return moved @ torch.inverse(system)


def drift(width: int) -> dict[str, float]:
    """Compares float32 inversion with ours: one layer, 76 erased and six times 77 kept rows."""
    generator = torch.Generator().manual_seed(2)
    # A common direction makes rows as alike as those of real encoders; lengths are about 27.
    common = torch.randn(width, generator=generator)
    sources, targets = (
        0.5 * torch.randn(76, width, generator=generator) + common for _ in range(2)
    )
    kept = [0.5 * torch.randn(77, width, generator=generator) + common for _ in range(6)]
    weight = torch.randn(320, width, generator=generator) / 27
    moved = TokenPairs(sources.double(), targets.double(), torch.ones(76).double())
    solution = ridge_edit(moved, gram(kept, width), ridge=RIDGE)
    exact = weight.double() @ solution.map.matrix()
    still = TokenPairs(moved.sources, moved.sources, moved.weights)
    nothing = ridge_edit(still, gram(kept, width), ridge=RIDGE)
    edit, size = (exact - weight.double()).norm(), weight.double().norm()

    def off(found: Tensor, wanted: Tensor) -> Tensor:
        return (found.double() - wanted.double()).norm()

    theirs = literal_layer([weight], 0, [(sources, targets)], kept)
    theirs_still = literal_layer([weight], 0, [(sources, sources)], kept)
    return {
        "condition": solution.conditioning.condition,
        "literal_relative_to_edit": float(off(theirs, exact) / edit),
        "ours_relative_to_edit": float(off(applied(weight, solution), exact) / edit),
        "literal_no_op_relative_to_weight": float(off(theirs_still, weight) / size),
        "ours_no_op_relative_to_weight": float(off(applied(weight, nothing), weight) / size),
    }


def applied(weight: Tensor, solution: Solution) -> Tensor:
    """Our update of one matrix, in its dtype."""
    patch = TextMapPatch(left=solution.map.left.float(), right=solution.map.right.float())
    return weight + patch.on(weight)
