"""Batch norms that learn new statistics, written as a change of their weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from efface.errors import BadModel

__all__ = ["learning_statistics", "new_statistics"]


def learning_statistics(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Lets batch norms learn their statistics, and lists them; the rest runs as it did."""
    found = [
        each for each in network.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)
    ]
    for each in found:
        each.train()
    return found


@contextmanager
def new_statistics(network: nn.Module) -> Iterator[None]:
    """Lets the body train a network whose batch norms forget their statistics and learn others.

    Afterwards the old statistics are back, and weights and biases of the norms are such that the
    network that recognises computes the same with them: what a norm does then, ``weight (x - mean)
    / deviation + bias``, is one scale and one shift of a channel, whichever statistics it is
    written by. So a change of weights says all that was learnt. After an error nothing is written.

    Raises:
        BadModel: a norm has no weights, or no statistics, in which this could be written.
    """
    every = dict(network.named_modules())
    norms = {
        path: each
        for path, each in every.items()
        if isinstance(each, nn.modules.batchnorm._BatchNorm)
    }
    for path, norm in norms.items():
        if not norm.affine or not norm.track_running_stats:
            raise BadModel(
                f"the batch norm {path} has no weights or keeps no statistics, so what it learns "
                "cannot be written as a change of weights; use a network whose norms have both"
            )
    before = {
        path: {name: value.clone() for name, value in norm.named_buffers()}
        for path, norm in norms.items()
    }
    modes = {path: norm.training for path, norm in norms.items()}
    learnt: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    try:
        for norm in norms.values():
            norm.reset_running_stats()
            norm.train()
        yield
        learnt = {path: _scale_and_shift(norm) for path, norm in norms.items()}
    finally:
        with torch.no_grad():
            for path, norm in norms.items():
                for name, value in norm.named_buffers():
                    value.copy_(before[path][name])
                norm.train(modes[path])
    for path, (scale, shift) in learnt.items():
        _write(norms[path], scale, shift)


def _moments(norm: nn.modules.batchnorm._BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.cpu().double(), (norm.running_var.cpu().double() + norm.eps).sqrt()


def _scale_and_shift(
    norm: nn.modules.batchnorm._BatchNorm,
) -> tuple[torch.Tensor, torch.Tensor]:
    mean, deviation = _moments(norm)
    scale = norm.weight.detach().cpu().double() / deviation
    return scale, norm.bias.detach().cpu().double() - scale * mean


def _write(norm: nn.modules.batchnorm._BatchNorm, scale: torch.Tensor, shift: torch.Tensor) -> None:
    mean, deviation = _moments(norm)
    with torch.no_grad():
        norm.weight.copy_(scale * deviation)
        norm.bias.copy_(shift + scale * mean)
