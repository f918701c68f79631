"""What an erasure adds to each weight, and how much of it an attacker lets stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from efface.deltas.patches import DensePatch, Patch
from efface.errors import BadRequest
from efface.hosts.components import find
from efface.revival.target import Target

__all__ = ["Change", "Touched", "left_standing", "touched"]


class Touched(NamedTuple):
    """One weight that the erasure changes."""

    base: Float[Tensor, "*shape"]
    """Its values in the unedited model."""
    standing: Float[Tensor, "*shape"]
    """What the erasure adds to the weight itself."""
    gated: Float[Tensor, "*shape"]
    """What it adds beside the weight, as layers that a gate opens; zero elsewhere."""

    @property
    def whole(self) -> Float[Tensor, "*shape"]:
        """What prompts of the concept meet: both together, with the gate wide open."""
        return self.standing + self.gated

    @property
    def relative(self) -> float:
        """How large the change is beside the weight, by their norms."""
        return float(self.whole.norm() / self.base.norm().clamp(min=1e-12))


class Change(NamedTuple):
    """What an `Attempt` says about weights."""

    without: frozenset[str]
    added: Mapping[str, Patch]


def touched(target: Target) -> dict[str, Touched]:
    """Reads off what an erasure changed, weight by weight; of the unedited model, nothing.

    Whoever has both models has this, whatever form the erasure was published in: maps of the text
    side and low-rank layers are written out as what they add to each weight.

    Raises:
        BadRequest: it maps rows, which adds nothing to weights.
    """
    if target.delta is None:
        return {}
    if target.delta.row_maps:
        raise BadRequest(
            f"delta {target.delta.id} maps rows beside the weights, so no share of it can be put "
            "back in them; attack it with component_swap, which takes the map off"
        )
    inside = target.delta.patches if target.delta.gate is None else target.delta.ungated
    beside = {} if target.delta.gate is None else target.delta.patches
    keys = dict.fromkeys(name for key in (*inside, *beside) for name in find(target.model, key))
    edited = {key: find(target.model, key)[key].detach().clone() for key in keys}
    found = {}
    with target.unedited():
        for key, weight in edited.items():
            base = find(target.model, key)[key].detach().clone()
            gated = beside[key].on(base) if key in beside else torch.zeros_like(base)
            found[key] = Touched(base, weight - base, gated)
    return found


def left_standing(
    target: Target,
    weights: Mapping[str, Touched],
    shares: Mapping[str, Float[Tensor, "*shape"] | float],
) -> Change:
    """Gives the change after which only a share of the erasure is there.

    Gated layers become layers without a gate. Where no share is left of anything, all patches are
    taken off, which is exact; otherwise sums are rounded as those of any patch.

    Args:
        target: the model under attack.
        weights: from `touched`.
        shares: of each weight: 1 is the whole change, 0 none, below 0 its reverse; a number, or one
            per entry (or row, as a column). Weights that are not named keep all of it.
    """
    if target.delta is None:
        return Change(frozenset(), {})
    if set(shares) == set(weights) and not any(
        torch.as_tensor(one).any() for one in shares.values()
    ):
        return Change(frozenset({"gate", *(key.partition("/")[0] for key in weights)}), {})
    gated = target.delta.gate is not None
    added: dict[str, Patch] = {}
    for key, weight in weights.items():
        difference = shares.get(key, 1.0) * weight.whole - weight.standing
        if difference.any():
            added[key] = DensePatch(difference)
    return Change(frozenset({"gate"}) if gated else frozenset(), added)
