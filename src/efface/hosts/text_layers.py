"""Parameters of a text encoder's layers, chosen by part and by the layer's number."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from torch import nn

from efface.errors import BadRequest
from efface.hosts.components import canonical, component

__all__ = ["TextPart", "layer_count", "text_layers"]

TextPart: TypeAlias = Literal["all", "feed_forward", "attention", "norms"]

_PARTS: dict[str, str] = {
    "all": "",
    "feed_forward": r"mlp\.fc[12]\.",
    "attention": r"self_attn\.",
    "norms": r"layer_norm[12]\.",
}
_LAYER = re.compile(r"^encoder\.layers\.(\d+)\.")


def text_layers(
    model: Any,
    part: TextPart = "all",
    *,
    layers: Iterable[int] | None = None,
    encoder: str = "text_encoder",
) -> dict[str, nn.Parameter]:
    """Lists parameters of a CLIP text encoder's layers as ``<encoder>/<canonical path>``.

    Layers are compared as numbers: layer 1 is not 10 or 11.

    Args:
        model: a pipeline.
        part: which part of each layer.
        layers: their numbers from 0; negative ones count from the last. Left out: all.
        encoder: which encoder of the pipeline.

    Raises:
        BadRequest: the encoder has no such layer, or its layers are named otherwise.
    """
    named = {canonical(path): w for path, w in component(model, encoder).named_parameters()}
    numbers = _numbers(named, encoder)
    count = max(numbers.values()) + 1
    chosen = set(range(count)) if layers is None else {_placed(n, count, encoder) for n in layers}
    pattern = re.compile(_LAYER.pattern + _PARTS[part])
    return {
        f"{encoder}/{path}": named[path]
        for path, number in numbers.items()
        if number in chosen and pattern.match(path)
    }


def layer_count(model: Any, encoder: str = "text_encoder") -> int:
    """Counts the layers of a CLIP text encoder.

    Raises:
        BadRequest: its layers are named otherwise.
    """
    paths = (canonical(path) for path, _ in component(model, encoder).named_parameters())
    return max(_numbers(paths, encoder).values()) + 1


def _numbers(paths: Iterable[str], encoder: str) -> dict[str, int]:
    """Gives the layer's number of every path that is in a layer."""
    numbers = {path: int(match[1]) for path in paths if (match := _LAYER.match(path))}
    if not numbers:
        raise BadRequest(f"{encoder} is not a CLIP text encoder; its layers are not known by name")
    return numbers


def _placed(number: int, count: int, encoder: str) -> int:
    if not -count <= number < count:
        raise BadRequest(f"{encoder} has layers 0 to {count - 1}; there is no layer {number}")
    return number % count
