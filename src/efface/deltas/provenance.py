"""Where a delta comes from, and the sketch that tells the base it was made for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from efface.files import parse_json
from efface.hosts.components import find

__all__ = [
    "SKETCH_TOLERANCE",
    "ParameterKey",
    "Provenance",
    "base_sketch",
    "provenance_from_json",
    "provenance_to_json",
    "sketch",
    "sketch_deviation",
]

ParameterKey: TypeAlias = str
"""``<component>/<canonical parameter path>``, or a role such as ``unet/key_value``."""

SKETCH_VALUES = 16
_KINDS: Mapping[str, type[Any]] = {
    **dict.fromkeys(("method", "base_model", "commit", "made_on"), str),
    **dict.fromkeys(("revision", "seed"), int),
    **dict.fromkeys(("settings", "recipe", "request", "base_sketch", "versions"), dict),
    **dict.fromkeys(("parents", "parts"), list),
    "dirty": bool,
}
"""What JSON has for each field."""
SKETCH_TOLERANCE = 1e-2
"""Relative deviation that is still the same base: bf16 copies reach 5e-3, edits of 1 % 2e-2."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a delta comes from and what it may be applied to."""

    method: str
    revision: int
    settings: Mapping[str, Any]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How it came about, as far as that is not said beside it; see `efface.runs.recipe`."""
    request: Mapping[str, Any]
    seed: int
    base_model: str
    base_sketch: Mapping[ParameterKey, tuple[float, ...]]
    """Sixteen values of every touched tensor, as it was when the delta was made."""
    versions: Mapping[str, str]
    commit: str = ""
    dirty: bool = False
    parents: tuple[str, ...] = ()
    """Deltas that were applied while this one was made."""
    parts: tuple[str, ...] = ()
    """Deltas that this one was composed of."""
    base_prints: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """A print of every network of the base, see `efface.deltas.base_prints`; {}: not taken."""
    made_on: str = ""
    """The model that it was made on, if it was then transferred to another one."""


def sketch(tensor: Float[Tensor, "*shape"]) -> tuple[float, ...]:
    """Takes up to sixteen evenly strided values of a tensor."""
    flat = tensor.detach().flatten()
    step = max(1, flat.numel() // SKETCH_VALUES)
    return tuple(float(value) for value in flat[::step][:SKETCH_VALUES].to("cpu", torch.float64))


def sketch_deviation(found: tuple[float, ...], expected: tuple[float, ...]) -> float:
    """Measures the relative distance of two sketches.

    Infinite when their lengths differ or a value is not finite: nothing is known of such a base.
    """
    if len(found) != len(expected) or not all(map(math.isfinite, (*found, *expected))):
        return float("inf")
    distance = math.dist(found, expected)
    size = math.hypot(*expected)
    return distance / size if size > 0 else distance


def base_sketch(
    model: Any, keys: tuple[ParameterKey, ...]
) -> dict[ParameterKey, tuple[float, ...]]:
    """Sketches every parameter behind the keys."""
    return {name: sketch(parameter) for key in keys for name, parameter in find(model, key).items()}


def provenance_to_json(provenance: Provenance) -> str:
    """Writes provenance as JSON text, without the prints, which older versions do not read."""
    fields = asdict(provenance)
    del fields["base_prints"]
    return json.dumps(fields, sort_keys=True, default=str)


def provenance_from_json(text: str, prints: str = "{}") -> Provenance:
    """Reads what `provenance_to_json` wrote, and the prints; lists become tuples again.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is damaged.
    """
    fields: dict[str, Any] = parse_json(text, "the provenance")
    if "settings_given" in fields:  # written before there were recipes
        given = {name: fields["settings"].get(name) for name in fields.pop("settings_given")}
        fields["recipe"] = {"preset": fields.pop("preset", None), "settings": given}
    _check_kinds(fields)
    for name in ("parents", "parts"):
        fields[name] = tuple(fields[name])
    fields["base_sketch"] = {
        key: tuple(float(value) for value in values)
        for key, values in fields["base_sketch"].items()
    }
    fields["base_prints"] = {
        name: tuple(float(value) for value in values)
        for name, values in parse_json(prints, "the prints of the base").items()
    }
    return Provenance(**fields)


def _check_kinds(fields: Mapping[str, Any]) -> None:
    for name, kind in _KINDS.items():
        value = fields.get(name, kind())
        if type(value) is not kind or (kind is list and not _are_words(value)):
            raise ValueError(f"its {name} is {value!r:.40}")
    for each in fields["request"].get("erasures", ()):
        concept = each["concept"]
        if not _are_words([concept["name"], *concept.get("synonyms", ())]):
            raise ValueError(f"a concept is called {concept['name']!r:.40}")


def _are_words(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
