"""Gradient checkpointing of a network: activations computed twice instead of kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["recomputing"]


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
    held = {part: dict(vars(part)) for part in network.modules()}
    network.enable_gradient_checkpointing()  # type: ignore[operator]
    try:
        yield
    finally:
        for part, attributes in held.items():
            for name in vars(part).keys() - attributes.keys():
                delattr(part, name)
            if "gradient_checkpointing" in attributes:
                part.gradient_checkpointing = attributes["gradient_checkpointing"]
