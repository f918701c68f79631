"""Memory that runs out: passes without gradients in parts, and a trial of what would fit."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from efface.core.recomputing import computing, recomputing
from efface.errors import BadRequest

if TYPE_CHECKING:
    from efface.core.gradient_eraser import GradientEraser

__all__ = ["MemoryRanOut", "in_parts", "noticing", "what_fits"]

_MOMENTS = 2
"""Tensors of a weight's size that the optimiser keeps beside its gradient."""
_TOLD = "not enough memory|can't allocate memory|could not create a (primitive|memory)|bad_alloc"
"""What torch's allocator, oneDNN and C++ say on a processor, as errors of no kind of their own."""


class MemoryRanOut(BadRequest):
    """There is not enough memory for what was asked, on whatever device."""


@contextmanager
def noticing() -> Iterator[None]:
    """Tells running out of memory from other errors.

    Raises:
        MemoryRanOut: instead of what torch raises, which differs by device.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not re.search(_TOLD, str(error)):
            raise
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise MemoryRanOut(f"memory ran out ({told[:100]})") from error


def in_parts(ask: Callable[[slice], Tensor], count: int, most: int) -> tuple[Tensor, int]:
    """Asks about samples together, or in parts of half the size for as long as memory runs out.

    Args:
        ask: gives one row a sample.
        count: of samples.
        most: the largest part that is tried.

    Returns:
        All rows; and ``most``, or the size of the parts if memory ran out.

    Raises:
        MemoryRanOut: a single sample is too much.
    """
    while True:
        try:
            with noticing():
                parts = [ask(slice(at, at + most)) for at in range(0, count, most)]
                return torch.cat(parts), most
        except MemoryRanOut as error:
            if most == 1:
                raise MemoryRanOut(
                    f"{error} on one sample without gradients; free some, or load the model on a "
                    "device that has more"
                ) from error
        most = max(1, min(most, count) // 2)


def what_fits(
    attempt: Callable[[int], Tensor],
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    method: GradientEraser,
    samples: int,
) -> str:
    """Finds by trying how much of a step fits, with and without recomputed activations.

    Args:
        attempt: one pass of so many samples in training; gives something to go back from.
        network: that is trained, of diffusers.
        parameters: those in training, whose optimiser is made room for.
        method: the settings that did not fit.
        samples: of a step, with gradients.

    Returns:
        Settings to try instead, in words.
    """
    gc.collect()
    room = _MOMENTS + (method.ema > 0)

    def largest() -> int:
        """Halves the batch until its share of the samples of a step fits; 0 if not even 1 does."""
        batch = method.batch
        while batch and not fits(ceil(samples * batch / method.batch)):
            batch //= 2
        return batch

    def fits(some: int) -> bool:
        """Goes there and back with so many samples, with room for the optimiser."""
        try:
            with noticing():
                held = [torch.zeros_like(w) for w in parameters.values() for _ in range(room)]
                with computing(method.precision, parameters):
                    answer = attempt(some)
                answer.float().square().mean().backward()
                del held
        except MemoryRanOut:
            return False
        finally:
            for weight in parameters.values():
                weight.grad = None
        return True

    plain = largest()
    if plain == method.batch:
        return "again with more of it free: such a step fits by itself, when tried"
    with recomputing(network, on=not method.recompute):
        again = 0 if method.recompute else largest()
    ways = [_settings(method, plain, recompute=False)] if plain else []
    ways += [_settings(method, again, recompute=True)] if again > plain else []
    ways = ways or ["fewer weights, such as another group of them: a batch of 1 does not fit"]
    return " or ".join(ways)


def _settings(method: GradientEraser, batch: int, *, recompute: bool) -> str:
    """Writes settings for a batch that fits, with as many samples in all."""
    changed: dict[str, object] = {"recompute": True} if recompute else {}
    if batch < method.batch:
        changed["batch"] = batch
        if method.keep_batch:
            changed["keep_batch"] = max(1, method.keep_batch * batch // method.batch)
        changed["accumulate"] = method.accumulate * ceil(method.batch / batch)
    return ", ".join(f"{name}={value}" for name, value in changed.items()) + " (tried: it fits)"
