"""TOML files of the command line: settings, and recipes of methods in turn."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efface import registry
from efface.errors import BadRequest

__all__ = ["SUFFIX", "read_recipe", "read_toml"]

SUFFIX = ".toml"
"""What tells a recipe from the name of a method."""


def read_toml(path: Path, what: str = "settings file") -> dict[str, Any]:
    """Reads a file whole.

    Raises:
        BadRequest: it is not there, or not TOML; the text calls it ``what``.
    """
    if path.exists() and not path.is_file():
        raise BadRequest(f"{path} is not a regular file; give a {what}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRequest(f"there is no {what} {path}; check how it is spelled") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(
            f"{path} is not a TOML file: {error}; write lines like: ridge = 0.1"
        ) from None


def read_recipe(path: Path) -> tuple[str, dict[str, Any]]:
    """Reads a recipe as the words that say the same: ``uce+esd`` and a file of ``--settings``.

    A recipe has one ``[[stage]]`` table for each method, with ``method`` and its settings.

    Raises:
        BadRequest: it is not a file of such tables, or a method is missing or unknown.
    """
    held = read_toml(path, "recipe")
    tables = held.pop("stage", [])
    if held or not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        odd = next(iter(held), "stage")
        raise BadRequest(
            f"{path} has '{odd}', and a recipe has nothing but [[stage]] tables, each with its "
            "method and settings"
        )
    if not tables:
        raise BadRequest(f"{path} is empty; a recipe has a [[stage]] table for each method")
    methods = [_method_of(table, f"stage {n} of {path}") for n, table in enumerate(tables, 1)]
    settings = [{name: table[name] for name in table if name != "method"} for table in tables]
    if len(tables) == 1:
        return methods[0], settings[0]
    return "+".join(methods), dict(zip(registry.stage_names(methods), settings, strict=True))


def _method_of(table: Mapping[str, Any], where: str) -> str:
    name = table.get("method")
    if not isinstance(name, str):
        raise BadRequest(f'{where} names no method; write a line like: method = "uce"')
    try:
        return registry.find("methods", name).name
    except BadRequest as error:
        raise BadRequest(f"{where}: {error}") from None
