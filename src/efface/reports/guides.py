"""Guides with which pictures were drawn, as reports name them."""

from __future__ import annotations

import ast
import json
from typing import Any

from efface import registry
from efface.evaluation.record import Evaluation
from efface.runs.words import flags_of

__all__ = ["flags", "guides"]


def guides(evaluation: Evaluation) -> str:
    """Names what steered sampling after the erasure, with what was set; empty: nothing did."""
    text = evaluation.after.guides if evaluation.after else ""
    return " and ".join(_named(name, settings) for name, _, settings in json.loads(text or "[]"))


def flags(evaluation: Evaluation) -> list[str] | None:
    """Writes them as flags of ``efface evaluate``; None where no flag can say a setting."""
    text = evaluation.after.guides if evaluation.after else ""
    words: list[str] = []
    for name, _, settings in json.loads(text or "[]"):
        own = flags_of(_set_here(name, settings), stage=name)
        if own is None:
            return None
        words += ["--guide", name, *own]
    return words


def _set_here(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Leaves out settings that are the class's own."""
    known = {entry.name: entry.settings for entry in registry.entries("guides")}
    usual = {each.name: ast.literal_eval(each.default or "None") for each in known.get(name, ())}
    return {key: value for key, value in settings.items() if _tuple(value) != usual.get(key)}


def _named(name: str, settings: dict[str, Any]) -> str:
    set_here = _set_here(name, settings)
    words = [f"{key.replace('_', ' ')} {_shown(value)}" for key, value in set_here.items()]
    return f"{name} ({'; '.join(words)})" if words else name


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
