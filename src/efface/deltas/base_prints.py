"""Prints of whole networks, in which every tensor counts and rounding to another dtype does not.

Sixteen values of a weight tell whether a delta fits it; a print tells whether the rest of the base
is the one that the delta was made on. Of up to sixteen stretches of every tensor, evenly strided,
three numbers are taken: the logarithm of their root mean square, and two projections on fixed
patterns of signs, relative to their norm. Another tensor of the same size changes the projections
by about one, a copy in bfloat16 by about 0.001. A print adds them up in sixteen groups by the
tensors' names, so that no tensor hides behind others.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.deltas.application import unedited
from efface.hosts.components import canonical, components
from efface.hosts.folders import pipeline_parts
from efface.hosts.shards import folder_json, stored_tensors
from efface.hosts.streaming import DENOISERS
from efface.randomness import derive

__all__ = ["TOLERANCE", "base_prints", "differing"]

GROUPS = 16
PATTERN = 4096
"""Signs in a pattern, which repeats."""
STRETCHES = 16
"""Of a tensor, each as long as a pattern: a folder is not read whole to tell a base."""
TOGETHER = 2**20
"""Values that are taken at a time."""
SMALL = 1e-4
"""Root mean square below which a tensor fades out: float16 rounds such values to zero."""
TOLERANCE = 0.1
"""Difference of a group that is still rounding; another tensor moves it by about 1."""


def base_prints(model: Any) -> dict[str, tuple[float, ...]]:
    """Takes the print of every network of a pipeline, without the deltas in force on it.

    A pipeline that is opened from its folder is read there, one tensor at a time.
    """
    if hasattr(model, "embedded_prompts") and hasattr(model, "folder"):
        return {name: _print(tensors) for name, tensors in _stored(model.folder)}
    with unedited(model):
        return {name: _print(_held(network)) for name, network in components(model).items()}


def differing(
    found: Mapping[str, tuple[float, ...]], expected: Mapping[str, tuple[float, ...]]
) -> list[str]:
    """Lists the networks whose print is another or not finite, of those that both have."""
    return [
        name
        for name, print_ in expected.items()
        if name in found and not _alike(found[name], print_)
    ]


def _alike(found: tuple[float, ...], expected: tuple[float, ...]) -> bool:
    return len(found) == len(expected) and all(
        abs(one - other) <= TOLERANCE for one, other in zip(found, expected, strict=True)
    )


def _print(tensors: Iterator[tuple[str, Tensor]]) -> tuple[float, ...]:
    sums = [[0.0] * 3 for _ in range(GROUPS)]
    for names, numbers in _numbers(tensors):
        for name, values in zip(names, numbers, strict=True):
            group = sums[zlib.crc32(name.encode()) % GROUPS]
            for place, value in enumerate(values):
                group[place] += value
    # JSON has no word for values that are not finite, and such a base is like no other.
    plain = [value for group in sums for value in group]
    return tuple(round(value, 4) for value in plain) if all(map(math.isfinite, plain)) else ()


def _numbers(
    tensors: Iterator[tuple[str, Tensor]],
) -> Iterator[tuple[list[str], list[list[float]]]]:
    """Gives the three numbers of every tensor, of many small ones at a time.

    Those that are offloaded or packed are passed over.
    """
    names: list[str] = []
    parts: list[Tensor] = []
    held = 0
    for name, tensor in tensors:
        if tensor.is_meta or not tensor.is_floating_point() or type(tensor.data) is not Tensor:
            continue
        names.append(name)
        parts.append(_sampled(tensor.detach().flatten()).to("cpu", torch.float32))
        held += parts[-1].numel()
        if held >= TOGETHER:
            yield names, _three(parts)
            names, parts, held = [], [], 0
    if parts:
        yield names, _three(parts)


def _three(parts: list[Tensor]) -> list[list[float]]:
    """Gives the logarithm of the root mean square of each part and its two projections."""
    sizes = torch.tensor([part.numel() for part in parts])
    rows = (sizes + PATTERN - 1) // PATTERN
    filling = torch.zeros(PATTERN)
    filled = [piece for part in parts for piece in (part, filling[: -part.numel() % PATTERN])]
    stretches = torch.cat(filled).view(-1, PATTERN)
    each = torch.cat(
        [
            torch.linalg.vector_norm(stretches, dim=1, keepdim=True, dtype=torch.float64) ** 2,
            (stretches @ _signs().T).double(),
        ],
        dim=1,
    )
    owner = torch.arange(len(parts)).repeat_interleave(rows)
    square, one, other = torch.zeros(len(parts), 3, dtype=torch.float64).index_add(0, owner, each).T
    root = sizes.clamp(min=1).double().sqrt()
    norm = square.sqrt() + SMALL * root
    return torch.stack([(norm / root).log(), one / norm, other / norm], dim=1).tolist()


def _sampled(flat: Tensor) -> Tensor:
    """Takes a tensor whole if it is short, else stretches from its beginning to its end."""
    if len(flat) <= STRETCHES * PATTERN:
        return flat
    step = (len(flat) - PATTERN) // (STRETCHES - 1)
    return torch.cat([flat[step * n : step * n + PATTERN] for n in range(STRETCHES)])


@cache
def _signs() -> Float[Tensor, "2 pattern"]:
    drawn = torch.randint(2, (2, PATTERN), generator=derive(0, "base prints"))
    return (2 * drawn - 1).to(torch.float32)


def _held(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Lists what a network's file would hold: parameters and buffers, those that are tied once."""
    seen: set[int] = set()
    for path, tensor in network.state_dict().items():
        if not isinstance(tensor, Tensor):  # a packed layer lists its settings, too
            continue
        if tensor.is_meta or tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield canonical(path), tensor


def _stored(folder: Any) -> Iterator[tuple[str, Iterator[tuple[str, Tensor]]]]:
    """Reads what closed forms need of a folder: the text encoders and the denoiser.

    An autoencoder is left out, as older files have other names for its weights.
    """
    file = folder / "model_index.json"
    for name in pipeline_parts(file, folder_json(file)):
        if name.startswith("text_encoder") or name in DENOISERS:
            stored = stored_tensors(folder / name)
            yield name, ((path, each.mapped()) for path, each in stored.items())
