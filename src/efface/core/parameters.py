"""Choosing parameters by role, changing them in place, putting them back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from efface.models.architectures import members

__all__ = ["chosen", "restoring"]


def chosen(model: Any, *roles: str) -> dict[str, nn.Parameter]:
    """Lists the parameters of one or several roles by key.

    Raises:
        BadRequest: a role is unknown or the model has nothing in it.
    """
    return {key: weight for role in roles for key, weight in members(model, role).items()}


@contextmanager
def restoring(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Lets the body change values and ``requires_grad``, and puts both back whatever happens."""
    saved = {key: weight.detach().to("cpu", copy=True) for key, weight in parameters.items()}
    wanted = {key: weight.requires_grad for key, weight in parameters.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for key, weight in parameters.items():
                weight.copy_(saved[key])
                weight.requires_grad_(wanted[key])
                weight.grad = None
