"""Frozen dataclasses to JSON and back; NaN is written as null, paths as text."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["decoded", "encoded"]

T = TypeVar("T")


def encoded(value: Any) -> Any:
    """Turns dataclasses, tuples, mappings and paths into what JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encoded(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encoded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.as_posix() if isinstance(value, Path) else value


def decoded(kind: type[T], value: Any) -> T:
    """Rebuilds a dataclass from what `encoded` made, following its annotations.

    Fields that the file does not have take their defaults; fields that the class does not have
    are dropped, so older and newer files stay readable.

    Raises:
        TypeError: a required field is missing.
    """
    result: T = _as(kind, value)
    return result


def _as(kind: Any, value: Any) -> Any:
    if kind is Any or get_origin(kind) is Literal:
        return value
    if kind is float:
        return math.nan if value is None else float(value)
    if kind is Path:
        return Path(value)
    if is_dataclass(kind):
        return _dataclass(kind, value)
    if get_origin(kind) in (Union, types.UnionType):
        return _optional(kind, value)
    return _container(kind, value)


def _dataclass(kind: Any, value: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(kind) if field.init}
    return kind(**{name: _as(known[name], one) for name, one in value.items() if name in known})


def _optional(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    choices = [choice for choice in get_args(kind) if choice is not type(None)]
    return _as(choices[0], value)


def _container(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, Sequence):
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_as(inner[0], one) for one in value)
        return tuple(_as(one_kind, one) for one_kind, one in zip(inner, value, strict=True))
    if origin is not None and issubclass(origin, Mapping) and inner:
        return {key: _as(inner[1], one) for key, one in value.items()}
    return value
