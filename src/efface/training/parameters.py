"""Parameters chosen by role and trained in place, with the unedited ones at hand as a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.deltas.patches import DensePatch, Patch
from efface.errors import BadModel
from efface.hosts.components import components
from efface.hosts.roles import members
from efface.hosts.states import check_editable
from efface.randomness import evaluating

__all__ = ["Trained", "chosen", "training"]


def chosen(model: Any, *roles: str) -> dict[str, nn.Parameter]:
    """Lists the parameters of one or several roles by key.

    Raises:
        BadRequest: a role is unknown or the model has nothing in it.
    """
    return {key: weight for role in roles for key, weight in members(model, role).items()}


class Trained:
    """Parameters that are being trained, with the originals at hand.

    The originals are the very tensors that were there. Swapping changes which tensor a parameter
    points to, so it costs nothing and is exact. Memory is that of the chosen parameters once more,
    not of a second network.

    Args:
        parameters: by key.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.originals = {key: weight.data for key, weight in parameters.items()}
        for weight in parameters.values():
            weight.data = weight.data.clone()

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """Runs the body with the unedited network and without gradients."""
        edited = {key: weight.data for key, weight in self.parameters.items()}
        self._point_to(self.originals)
        try:
            with torch.no_grad():
                yield
        finally:
            self._point_to(edited)

    def changes(self) -> dict[str, Float[Tensor, "*shape"]]:
        """Gives what training has added to each parameter so far."""
        return {key: weight.data - self.originals[key] for key, weight in self.parameters.items()}

    def patches(self) -> dict[str, Patch]:
        """Writes the changes down, leaving out parameters that stayed as they were."""
        return {
            key: DensePatch(change.cpu()) for key, change in self.changes().items() if change.any()
        }

    def restore(self) -> None:
        """Gives every parameter its original tensor again, with the original values."""
        self._point_to(self.originals)

    def _point_to(self, values: Mapping[str, Tensor]) -> None:
        for key, weight in self.parameters.items():
            weight.data = values[key]


@contextmanager
def training(model: Any, parameters: Mapping[str, nn.Parameter]) -> Iterator[Trained]:
    """Lets the body train some parameters, and leaves the model bit for bit as it was.

    Networks run as they do when drawing, without dropout. Only the chosen parameters ask for
    gradients, in the whole model: a denoiser through which a text encoder is trained has none.

    Args:
        model: a pipeline.
        parameters: by key, from `chosen`.

    Raises:
        BadModel: a parameter is narrower than float32; small steps would round away. Or its
            network's weights are packed, elsewhere, or not those that it uses.
    """
    check_editable(model, {key.partition("/")[0] for key in parameters})
    narrow = [key for key, weight in parameters.items() if weight.dtype.itemsize < 4]
    if narrow:
        raise BadModel(
            f"{narrow[0]} is {parameters[narrow[0]].dtype}, in which small steps of training round "
            "away; load the model in float32 (precision sets what the network computes in)"
        )
    networks = [*components(model).values()]
    every = [weight for network in networks for weight in network.parameters()]
    required = [weight.requires_grad for weight in every]
    edit = Trained(parameters)
    try:
        for weight in every:
            weight.requires_grad = False
        for weight in parameters.values():
            weight.requires_grad = True
        with evaluating(*networks):
            yield edit
    finally:
        edit.restore()
        for weight, flag in zip(every, required, strict=True):
            weight.requires_grad = flag
            weight.grad = None
