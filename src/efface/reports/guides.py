"""Guides with which pictures were drawn, as reports name them."""

from __future__ import annotations

import ast
import json
from typing import Any

from efface import registry
from efface.evaluation.record import Evaluation

__all__ = ["guides"]


def guides(evaluation: Evaluation) -> str:
    """Names what steered sampling after the erasure, with what was set; empty: nothing did."""
    text = evaluation.after.guides if evaluation.after else ""
    return " and ".join(_named(name, settings) for name, _, settings in json.loads(text or "[]"))


def _named(name: str, settings: dict[str, Any]) -> str:
    known = {entry.name: entry.settings for entry in registry.entries("guides")}
    usual = {each.name: ast.literal_eval(each.default or "None") for each in known.get(name, ())}
    set_here = {key: value for key, value in settings.items() if _tuple(value) != usual.get(key)}
    words = [f"{key.replace('_', ' ')} {_shown(value)}" for key, value in set_here.items()]
    return f"{name} ({'; '.join(words)})" if words else name


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
