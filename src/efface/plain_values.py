"""Values of settings as plain Python of the type that each setting has, or refused in one line."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from efface.errors import BadRequest

__all__ = ["place", "plain"]

_LONGEST = 255
"""Bytes in one part of a path, on the file systems that are common."""


def plain(name: str, value: Any, hint: Any) -> Any:
    """Gives a setting's value as files can hold it: numbers of numpy or torch are Python's.

    A whole number stays one where a fraction is wanted, so that what was written is what is read.

    Args:
        name: of the setting, for what is refused.
        value: as it was given.
        hint: the setting's type; types that are not known here are not checked.

    Raises:
        BadRequest: the value is of another type, or not a number.
    """
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _of_either(name, value, inside)
    if origin is Literal:
        if not isinstance(value, str | int) or value not in inside:
            raise BadRequest(f"{name} is '{value}'; choose one of: {', '.join(map(str, inside))}")
        return value
    if origin is tuple:
        return _several(name, value, inside)
    read = _READ.get(hint)
    if read is None:
        return value
    try:
        return read(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise BadRequest(f"{name} is {value!r:.60}; give {_WANTED[hint]}") from None


def place(name: str, value: Any) -> Path:
    """Gives the path of a file or folder, before anything is looked up there.

    Args:
        name: of the argument, for what is refused.
        value: as it was given.

    Raises:
        BadRequest: it is neither text nor a path, empty, or no file can have such a name.
    """
    if not isinstance(value, str | Path) or not str(value):
        raise BadRequest(f"{name} is {value!r:.60}; give the name of a file or folder")
    if not _is_nameable(Path(value)):
        raise BadRequest(
            f"{name} is {str(value)!r:.60}, and no file can have that name; give a shorter one "
            "without characters that cannot be seen"
        )
    return Path(value)


def _is_nameable(path: Path) -> bool:
    try:
        sizes = [len(os.fsencode(part)) for part in path.parts]
    except UnicodeEncodeError:
        return False
    return "\0" not in str(path) and max(sizes, default=0) <= _LONGEST


def _of_either(name: str, value: Any, hints: tuple[Any, ...]) -> Any:
    if value is None and NoneType in hints:
        return None
    for hint in (others := [each for each in hints if each is not NoneType])[:-1]:
        try:
            return plain(name, value, hint)
        except BadRequest:
            continue
    return plain(name, value, others[-1])


def _several(name: str, value: Any, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise BadRequest(f"{name} is {value!r:.60}, and several are wanted; write ({value!r:.60},)")
    if hints[-1] is Ellipsis:
        return tuple(plain(name, one, hints[0]) for one in value)
    if len(value) != len(hints):
        raise BadRequest(f"{name} is {value!r:.60}; give {len(hints)} values")
    return tuple(plain(name, one, hint) for one, hint in zip(value, hints, strict=True))


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _number(value: Any) -> float:
    if isinstance(value, bool | str | bytes):
        raise TypeError
    number = value if isinstance(value, int | float) else float(value)
    if number != number:
        raise ValueError
    return float(number) if type(number) not in (int, float) else number


def _yes_or_no(value: Any) -> bool:
    # The answer of numpy is no bool, and is one by name.
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _path(value: Any) -> Path:
    return place("the path", value)


_READ: Mapping[Any, Callable[[Any], Any]] = {
    int: _whole,
    float: _number,
    bool: _yes_or_no,
    str: _text,
    Path: _path,
}
_WANTED = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    Path: "the name of a file or folder",
}
