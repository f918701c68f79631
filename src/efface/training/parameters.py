"""Parameters chosen by role and trained in place, with the unedited ones at hand as a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.deltas.patches import DensePatch, Patch
from efface.errors import BadModel
from efface.hosts.components import component
from efface.hosts.roles import members
from efface.randomness import evaluating
from efface.training.parking import Parked, parking_place

__all__ = ["Originals", "Trained", "chosen", "training"]

Originals: TypeAlias = Literal["memory", "disk"]
"""Where unedited weights are while others take their place."""


def chosen(model: Any, *roles: str) -> dict[str, nn.Parameter]:
    """Lists the parameters of one or several roles by key.

    Raises:
        BadRequest: a role is unknown or the model has nothing in it.
    """
    return {key: weight for role in roles for key, weight in members(model, role).items()}


class Trained:
    """Parameters that are being trained, with the originals at hand.

    In memory the originals are the very tensors that were there. Swapping changes which tensor a
    parameter points to, so it costs nothing and is exact. Memory is that of the chosen parameters
    once more, not of a second network.

    With a folder the originals wait there in files, the tensors that were there are trained
    themselves, and nothing is held twice. What is asked of the originals is read one tensor at a
    time; only while the teacher runs are all of them in memory.

    Args:
        parameters: by key.
        folder: for the files, which must be there until `restore`; left out, they stay in memory.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], folder: Path | None = None) -> None:
        self.parameters = dict(parameters)
        values = {key: weight.data for key, weight in parameters.items()}
        self.originals: Mapping[str, Tensor] = values
        if folder is not None:
            self.originals = Parked(values, folder)
            return
        for weight in parameters.values():
            weight.data = weight.data.clone()

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """Runs the body with the unedited network and without gradients."""
        edited = {key: weight.data for key, weight in self.parameters.items()}
        self._point_to(dict(self.originals))
        try:
            with torch.no_grad():
                yield
        finally:
            self._point_to(edited)

    def changes(self) -> dict[str, Float[Tensor, "*shape"]]:
        """Gives what training has added to each parameter so far."""
        return {key: self._change(key) for key in self.parameters}

    def patches(self) -> dict[str, Patch]:
        """Writes the changes down, leaving out parameters that stayed as they were."""
        return {
            key: DensePatch(change.cpu())
            for key in self.parameters
            if bool((change := self._change(key)).any())
        }

    def restore(self) -> None:
        """Gives every parameter its original tensor again, with the original values."""
        if not isinstance(self.originals, Parked):
            self._point_to(self.originals)
            return
        try:
            self._read_back()
        except KeyboardInterrupt:
            # Reading takes seconds: a second Ctrl-C must not leave half of the network edited.
            self._read_back()
            raise

    def _change(self, key: str) -> Tensor:
        return self.parameters[key].data - self.originals[key]

    def _read_back(self) -> None:
        for key, weight in self.parameters.items():
            weight.data.copy_(self.originals[key])

    def _point_to(self, values: Mapping[str, Tensor]) -> None:
        for key, weight in self.parameters.items():
            weight.data = values[key]


@contextmanager
def training(
    model: Any, parameters: Mapping[str, nn.Parameter], *, originals: Originals = "memory"
) -> Iterator[Trained]:
    """Lets the body train some parameters, and leaves the model bit for bit as it was.

    Networks run as they do when drawing, without dropout. Only the chosen parameters ask for
    gradients.

    Args:
        model: a pipeline.
        parameters: by key, from `chosen`.
        originals: where the unedited weights wait; on disk they are temporary files.

    Raises:
        BadModel: a parameter is narrower than float32; small steps would round away.
        BadRequest: the originals do not fit on the disk.
    """
    narrow = [key for key, weight in parameters.items() if weight.dtype.itemsize < 4]
    if narrow:
        raise BadModel(
            f"{narrow[0]} is {parameters[narrow[0]].dtype}, in which small steps of training round "
            "away; load the model in float32 (precision sets what the network computes in)"
        )
    networks = [component(model, name) for name in {key.partition("/")[0] for key in parameters}]
    every = [weight for network in networks for weight in network.parameters()]
    wanted = [weight.requires_grad for weight in every]
    with parking_place() if originals == "disk" else nullcontext() as folder:
        held = Trained(parameters, folder)
        try:
            for weight in every:
                weight.requires_grad = False
            for weight in parameters.values():
                weight.requires_grad = True
            with evaluating(*networks):
                yield held
        finally:
            held.restore()
            for weight, flag in zip(every, wanted, strict=True):
                weight.requires_grad = flag
                weight.grad = None
