"""What devices lack: memory, as one error on all of them and passes in parts; and float64."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from efface.errors import BadRequest

__all__ = [
    "MemoryRanOut",
    "free_bytes",
    "in_parts",
    "moved",
    "peak_resident_bytes",
    "translating_out_of_memory",
    "wide",
    "widest",
]

WITHOUT_FLOAT64 = {"mps"}
"""Kinds of device that hold no float64."""

_MESSAGES = (
    "not enough memory|can't allocate memory|could not create a (primitive|memory)|bad_alloc"
)
"""What torch, oneDNN and C++ say of it on a processor, as errors of no kind of their own."""


class MemoryRanOut(BadRequest):
    """There is not enough memory for what was asked, on whatever device."""


@contextmanager
def translating_out_of_memory() -> Iterator[None]:
    """Re-raises any device's out-of-memory error as `MemoryRanOut`.

    Raises:
        MemoryRanOut: instead of what torch raises, which differs by device.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not re.search(_MESSAGES, str(error)):
            raise
        message = (str(error) or type(error).__name__).splitlines()[0]
        raise MemoryRanOut(f"memory ran out ({message[:100]})") from error


def widest(device: torch.device) -> torch.dtype:
    """Gives float64, or float32 for a device that holds no float64."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def wide(tensor: Tensor) -> Tensor:
    """Gives a tensor in float64, or in float32 where its device holds no float64."""
    return tensor.to(widest(tensor.device))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Puts a tensor on a device, in its own dtype or, of float64, in what the device has of it."""
    return tensor.to(device, widest(device) if tensor.dtype == torch.float64 else tensor.dtype)


def free_bytes(device: torch.device) -> int | None:
    """Gives the memory that is free on a device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    told = Path("/proc/meminfo")
    if device.type != "cpu" or not told.is_file():
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", told.read_text(encoding="utf-8"))
    return None if found is None else 1024 * int(found[1])


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
            with translating_out_of_memory():
                parts = [ask(slice(at, at + most)) for at in range(0, count, most)]
                return torch.cat(parts), most
        except MemoryRanOut as error:
            if most == 1:
                raise MemoryRanOut(
                    f"{error} on one sample without gradients; free some, or load the model on a "
                    "device that has more"
                ) from error
        most = max(1, min(most, count) // 2)


def peak_resident_bytes() -> int:
    """Gives the most memory that this process has held so far.

    Linux counts it for the memory of this very program. ``ru_maxrss``, which other systems have
    alone, is at least what the process that started this one held at that time.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
