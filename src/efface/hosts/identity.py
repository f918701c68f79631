"""What tells a text encoder from others: a hash of every weight and of its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from efface.hosts.components import canonical

__all__ = ["fingerprint"]

_NO_MATTER = ("architectures", "dtype", "torch_dtype", "transformers_version")
"""Fields of a config that change no value."""


def fingerprint(encoder: Any) -> str:
    """Hashes an encoder's weights, class, settings and the dtype that it computes in.

    One pass over the weights; every bit of them counts, whatever dtype they are stored in. An
    encoder that runs from files has the fingerprint of the loaded one.
    """
    digest = hashlib.sha256()
    for path, weight in _weights(encoder):
        digest.update(f"{path} {tuple(weight.shape)}".encode())
        digest.update(_row_sums(weight).numpy().tobytes())
    network = getattr(encoder, "network", encoder)
    fields = encoder.config.to_dict()
    told = {
        name: value
        for name, value in fields.items()
        if not name.startswith("_") and name not in _NO_MATTER
    }
    settings = json.dumps(told, sort_keys=True, default=str)
    where = f"{type(network).__name__} {encoder.dtype} {encoder.device.type}"
    digest.update(f"{where} {settings}".encode())
    return digest.hexdigest()


def _weights(encoder: Any) -> Iterator[tuple[str, Tensor]]:
    stored = getattr(encoder, "stored", None)
    if stored is None:
        named = {canonical(path): weight for path, weight in encoder.named_parameters()}
        yield from ((path, named[path].detach()) for path in sorted(named))
    else:
        yield from ((path, stored[path].rows()) for path in sorted(stored))


def _row_sums(weight: Tensor) -> Tensor:
    """Adds up the bits of each row as integers: quick, exact, and no order of adding matters."""
    wide = weight.to("cpu", torch.promote_types(weight.dtype, torch.float32)).contiguous()
    bits = wide.view(torch.int64 if wide.dtype == torch.float64 else torch.int32)
    return bits.reshape(max(len(weight), 1) if weight.ndim else 1, -1).sum(1, dtype=torch.int64)
