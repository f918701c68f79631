"""Low-rank layers beside the linear and convolutional layers of a network, with a gate a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efface.deltas.patches import LowRankPatch, Patch
from efface.errors import BadModel
from efface.hosts.components import canonical, component
from efface.hosts.roles import members
from efface.hosts.states import refuse_compiled
from efface.randomness import evaluating

__all__ = ["Adapters", "LowRankLayer", "adapting", "attached", "layer_behind"]


@dataclass(eq=False)
class LowRankLayer:
    """What is added to one layer: ``up (gate * (down x))``, for every membrane at once.

    Membranes are stacked along the rank, so that however many there are, it is one pair of
    products.
    """

    down: Float[Tensor, "ranks in_"]
    """For convolutions ``in_`` is input channels times kernel size."""
    up: Float[Tensor, "out ranks"]

    def on(
        self, layer: nn.Module, inputs: Tensor, gates: Float[Tensor, "n membranes"] | None
    ) -> Tensor:
        """Gives what the layer's output gains.

        Args:
            layer: a linear layer or a convolution.
            inputs: what it reads, one sample along the first axis.
            gates: how far each membrane is open for each sample; left out, all are open.
        """
        down, up = self.down.to(inputs.dtype), self.up.to(inputs.dtype)
        if isinstance(layer, nn.Conv2d):
            kernel = down.reshape(len(down), -1, *layer.kernel_size)
            found = functional.conv2d(
                inputs, kernel, None, layer.stride, layer.padding, layer.dilation
            )
            return functional.conv2d(_gated(found, gates, channels=1), up[:, :, None, None])
        found = functional.linear(inputs, down)
        return functional.linear(_gated(found, gates, channels=-1), up)


def _gated(found: Tensor, gates: Tensor | None, *, channels: int) -> Tensor:
    """Multiplies the ranks of every membrane by its gate, sample by sample."""
    if gates is None:
        return found
    ranks = found.shape[channels]
    each = gates.to(found).repeat_interleave(ranks // gates.shape[1], dim=1)
    if len(each) != len(found):
        # Some layers see several rows a sample, such as patches of a picture.
        each = each.repeat_interleave(len(found) // len(each), dim=0)
    shape = [len(found)] + [1] * (found.ndim - 1)
    shape[channels] = ranks
    return found * each.reshape(shape)


@contextmanager
def attached(
    layers: Mapping[nn.Module, LowRankLayer], gates: Callable[[], Tensor | None]
) -> Iterator[None]:
    """Adds low-rank layers to a network until the body ends; hooks go exactly as they came.

    Args:
        layers: what is added to each module.
        gates: asked at every layer; None leaves all open.
    """
    handles = attach(layers, gates)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def attach(
    layers: Mapping[nn.Module, LowRankLayer], gates: Callable[[], Tensor | None]
) -> list[Any]:
    """Adds low-rank layers for good; removing the handles takes them off."""
    return [
        layer.register_forward_hook(partial(_beside, added, gates))
        for layer, added in layers.items()
    ]


def _beside(
    added: LowRankLayer,
    gates: Callable[[], Tensor | None],
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
) -> Tensor:
    return output + added.on(module, inputs[0], gates())


def layer_behind(model: Any, key: str) -> nn.Module:
    """Finds the layer whose weight a key names.

    Raises:
        BadModel: that weight is of no linear layer and no convolution.
    """
    name, _, path = key.partition("/")
    for own, module in component(model, name).named_modules():
        if f"{canonical(own)}.weight" == path and isinstance(module, nn.Linear | nn.Conv2d):
            return module
    raise BadModel(f"{key} is of no linear layer or convolution, so it takes no low-rank layer")


class Adapters:
    """Low-rank layers in training beside frozen weights; the teacher is the network without them.

    Args:
        model: a pipeline.
        role: which layers get one, see `efface.hosts.roles.ROLES`; or their weights by key.
        rank: of each membrane.
        membranes: how many are stacked, one a concept.
        alpha: the product is scaled by ``alpha / rank``.
        generator: draws ``down`` uniformly within one over the root of the inputs; ``up`` is zero,
            so that nothing changes at first.
    """

    def __init__(
        self,
        model: Any,
        role: str | Mapping[str, nn.Parameter],
        *,
        rank: int,
        generator: torch.Generator,
        membranes: int = 1,
        alpha: float = 1.0,
    ) -> None:
        self.gates: Float[Tensor, "n membranes"] | None = None
        """How far each membrane is open for each sample of the next pass; None: all the way."""
        self._scale = alpha / rank
        self._on = True
        chosen = members(model, role) if isinstance(role, str) else role
        keys = [key for key, weight in chosen.items() if weight.ndim > 1]
        self._layers = {key: layer_behind(model, key) for key in keys}
        self.parameters: dict[str, nn.Parameter] = {}
        """All factors, as ``<key>::down`` and ``<key>::up``."""
        for key, layer in self._layers.items():
            weight: Tensor = layer.weight  # type: ignore[assignment]
            inputs = weight[0].numel()
            drawn = torch.rand((membranes * rank, inputs), generator=generator) * 2 - 1
            down = (drawn / math.sqrt(inputs)).to(weight.device, torch.float32)
            up = torch.zeros(len(weight), membranes * rank, device=weight.device)
            self.parameters[f"{key}::down"] = nn.Parameter(down)
            self.parameters[f"{key}::up"] = nn.Parameter(up)

    def layers(self) -> dict[nn.Module, LowRankLayer]:
        """Pairs every layer with what it gains; the factors are those in training."""
        return {
            layer: _Scaled(self.parameters[f"{key}::down"], self.parameters[f"{key}::up"], self)
            for key, layer in self._layers.items()
        }

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """Runs the body with the frozen network alone, without gradients."""
        held, self._on = self._on, False
        try:
            with torch.no_grad():
                yield
        finally:
            self._on = held

    @property
    def scale(self) -> float:
        """What the products are multiplied with now; 0 for the teacher."""
        return self._scale if self._on else 0.0

    def patches(self) -> dict[str, Patch]:
        """Writes the layers down; the scale goes into ``up``."""
        return {
            key: LowRankPatch(
                up=(self._scale * self.parameters[f"{key}::up"].detach()).cpu(),
                down=self.parameters[f"{key}::down"].detach().cpu().clone(),
            )
            for key in self._layers
        }


class _Scaled(LowRankLayer):
    """A layer of `Adapters`, which can be switched off."""

    def __init__(self, down: Tensor, up: Tensor, owner: Adapters) -> None:
        super().__init__(down, up)
        self._owner = owner

    def on(self, layer: nn.Module, inputs: Tensor, gates: Tensor | None) -> Tensor:
        scale = self._owner.scale
        if scale == 0.0:
            return inputs.new_zeros(())
        return scale * super().on(layer, inputs, gates)


@contextmanager
def adapting(model: Any, adapters: Adapters) -> Iterator[Adapters]:
    """Lets the body train adapters; the network itself asks for no gradient and stays as it was."""
    names = {key.partition("/")[0] for key in adapters.parameters}
    networks = {component(model, name) for name in names}
    for network in networks:
        refuse_compiled(network, ", ".join(names))
    every = [weight for network in networks for weight in network.parameters()]
    wanted = [weight.requires_grad for weight in every]
    try:
        for weight in every:
            weight.requires_grad = False
        with evaluating(*networks), attached(adapters.layers(), lambda: adapters.gates):
            yield adapters
    finally:
        for weight, flag in zip(every, wanted, strict=True):
            weight.requires_grad = flag
