"""A delta as one low-rank change per layer, which is what LoRA files hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efface.deltas.delta import Delta
from efface.deltas.expansion import expanded
from efface.deltas.patches import DensePatch, LowRankPatch
from efface.errors import BadRequest
from efface.hosts.components import canonical, component

__all__ = ["Layer", "Layers", "layers_of"]


@dataclass(frozen=True)
class Layer:
    """The change ``up @ down`` of one weight."""

    up: Float[Tensor, "out rank"]
    down: Float[Tensor, "rank in_"]
    """For convolutions ``in_`` is input channels times kernel size."""
    kernel: tuple[int, ...] = ()
    """Size of a convolution's kernel; empty for linear layers."""

    def shaped(self) -> tuple[Tensor, Tensor]:
        """Gives up and down as a layer's weights: ``down`` has the kernel, ``up`` is 1 x 1."""
        if not self.kernel:
            return self.up.contiguous(), self.down.contiguous()
        down = self.down.reshape(self.rank, -1, *self.kernel)
        return self.up[..., None, None].contiguous(), down.contiguous()

    @property
    def rank(self) -> int:
        """The number of directions."""
        return len(self.down)


@dataclass(frozen=True)
class Layers:
    """All changed layers of one network, by the module's path in it."""

    component: str
    by_module: dict[str, Layer]
    lost: float
    """Size of what a limited rank leaves out, relative to the whole change; 0 is exact."""
    model: Any
    """The base, for the names that its family has in other tools."""


def layers_of(delta: Delta, model: Any, *, scale: float = 1.0, rank: int | None = None) -> Layers:
    """Writes a delta out layer by layer, exactly where it is low rank.

    Args:
        delta: with changes of linear layers and convolutions of one network.
        model: the base that the delta was made for.
        scale: how much of the change goes in.
        rank: cut every layer to this rank by SVD; needed where a change is dense.

    Raises:
        BadDelta: another base or a missing parent.
        BadRequest: changes of several networks, or of something that no LoRA file can hold, or a
            dense change without a rank.
    """
    written = expanded(delta, model)
    parts = sorted({key.partition("/")[0] for key in written.patches})
    if len(parts) != 1:
        raise BadRequest(
            f"a LoRA file changes one network and the delta changes {', '.join(parts)}; "
            "export the edited folder instead: --as diffusers"
        )
    paths = _module_paths(model, parts[0])
    found: dict[str, Layer] = {}
    whole = left = 0.0
    for key, patch in written.patches.items():
        module, weight = paths[key]
        if weight.ndim not in (2, 4) or not isinstance(patch, DensePatch | LowRankPatch):
            raise BadRequest(
                f"the delta changes {key}, which a LoRA file cannot hold; "
                "export the edited folder instead: --as diffusers"
            )
        layer = _layer(key, patch, rank)
        change = patch.on(torch.zeros(weight.shape, dtype=torch.float64))
        whole += float(change.square().sum())
        kept = (layer.up.double() @ layer.down.double()).reshape(weight.shape)
        left += float((change - kept).square().sum())
        found[module] = Layer(layer.up * scale, layer.down, tuple(weight.shape[2:]))
    lost = (left / whole) ** 0.5 if rank is not None and whole else 0.0
    return Layers(parts[0], found, lost, model)


def _layer(key: str, patch: DensePatch | LowRankPatch, rank: int | None) -> Layer:
    if isinstance(patch, LowRankPatch):
        if rank is None or rank >= len(patch.down):
            return Layer(patch.up.float(), patch.down.float())
        dense = patch.up.double() @ patch.down.double()
    elif rank is None:
        raise BadRequest(
            f"the change of {key} is dense and a LoRA file holds low rank; say how much with "
            "--rank N (what is lost is reported), or export the edited folder: --as diffusers"
        )
    else:
        dense = patch.difference.double().flatten(1)
    u, values, v = torch.linalg.svd(dense, full_matrices=False)
    root = values[:rank].sqrt()
    return Layer((u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float())


def _module_paths(model: Any, part: str) -> dict[str, tuple[str, Tensor]]:
    """Maps canonical keys to the module's path in the installed library, and its weight."""
    return {
        f"{part}/{canonical(path)}": (path.removesuffix(".weight"), weight)
        for path, weight in component(model, part).named_parameters()
    }
