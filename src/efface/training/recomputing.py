"""How activations are computed: twice instead of kept (gradient checkpointing), and how wide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

__all__ = ["computing", "recomputing"]

_NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@contextmanager
def computing(precision: str, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Computes in the wanted precision inside the body; weights stay as they are.

    Args:
        precision: float32, bfloat16 or float16.
        parameters: those in training, which tell the device.
    """
    narrow = _NARROW.get(precision)
    device = next(iter(parameters.values())).device.type
    with nullcontext() if narrow is None else torch.autocast(device, dtype=narrow):
        yield


@contextmanager
def recomputing(network: nn.Module, *, on: bool) -> Iterator[None]:
    """Turns it on for the body, and leaves the network's attributes as they were.

    Args:
        network: of diffusers.
        on: otherwise nothing happens.
    """
    if not on:
        yield
        return
    before = {part: dict(vars(part)) for part in network.modules()}
    network.enable_gradient_checkpointing()  # type: ignore[operator]
    try:
        yield
    finally:
        for part, attributes in before.items():
            for name in vars(part).keys() - attributes.keys():
                delattr(part, name)
            if "gradient_checkpointing" in attributes:
                part.gradient_checkpointing = attributes["gradient_checkpointing"]
